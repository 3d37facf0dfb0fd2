"""Choose how each layer of a model runs, and say why."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.convert._cuda import choose_on_cuda
from secateur.sparse.convert._decided import Chosen, as_timed, by_break_even
from secateur.sparse.convert._report import Choice, LayerReport
from secateur.sparse.convert._situation import Situation, beside, refused_by_kernels, without_gain
from secateur.sparse.convert._timed import dense_way, timed
from secateur.sparse.convert._transformers import attention, conv1d, is_conv1d
from secateur.sparse.layers import OneDnnLinear, SparseLinear, sparse_convolution, sparse_recurrent, this_device
from secateur.sparse.measured import recurrent_break_even


def choose(path: str, module: nn.Module, situation: Situation) -> Chosen:
    """Choose how the module at `path` runs."""
    if isinstance(module, nn.Linear):
        return _linear(path, module, situation)
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return _convolution(path, module, situation)
    if isinstance(module, nn.LSTM | nn.GRU):
        return _recurrent(path, module, situation)
    if isinstance(module, nn.MultiheadAttention):
        return attention(path, module, situation)
    return conv1d(path, module, situation) if is_conv1d(module) else (None, [])


def _linear(path: str, module: nn.Linear, situation: Situation) -> Chosen:
    weight, mask = module.weight, situation.mask(module.weight)
    name = situation.name(path, "weight", weight)
    reason = situation.why_not(module, nn.Linear) or (None if weight.numel() else "it has no weights")
    if reason is None and mask is not None and on_cuda(module):
        new, line = choose_on_cuda(module, name, mask, situation.batch, this_device(weight.device))
        return new, [line]
    reason = reason or refused_by_kernels(module, torch.bfloat16)
    idle = without_gain(mask)
    if reason is None and idle is not None and (new := _quicker(path, module, situation)) is not None:
        reason = f"{idle}; it multiplies through oneDNN, faster here"
        return new, [LayerReport.of(name, weight, mask, Choice.DENSE, reason)]
    reason = reason or idle
    if reason is not None or mask is None:
        return None, [LayerReport.of(name, weight, mask, Choice.UNTOUCHED, reason or "")]
    sparse = SparseLinear.from_dense(module, mask)
    if path in situation.uses_by_path:
        return as_timed(path, module, sparse, situation, name, mask)
    return by_break_even(weight, sparse, situation, name, mask)


def _quicker(path: str, module: nn.Linear, situation: Situation) -> nn.Module | None:
    """Return a layer without a mask in the way that is faster here, if it is not as it is."""
    if situation.as_is:
        return None
    if situation.given is None and path in situation.uses_by_path:
        return dense_way(module, situation.uses_by_path[path])
    faster = min(module.weight.shape) >= 64 and situation.machine.onednn
    return OneDnnLinear.from_dense(module) if faster else None


def on_cuda(module: nn.Linear) -> bool:
    """Tell whether the layer's weights are on a CUDA device."""
    return module.weight.is_cuda


def _convolution(path: str, module: nn.Conv1d | nn.Conv2d, situation: Situation) -> Chosen:
    """In a Sequential with sparse convolutions a denser one is sparse as well: to leave the kernels' layout for it
    and to come back costs more than it would gain.
    """
    weight, mask = module.weight, situation.mask(module.weight)
    name = situation.name(path, "weight", weight)
    reason = situation.why_not(module, nn.Conv1d, nn.Conv2d) or _why_no_convolution(module)
    reason = reason or refused_by_kernels(module) or without_gain(mask)
    if reason is not None or mask is None:
        return None, [LayerReport.of(name, weight, mask, Choice.UNTOUCHED, reason or "")]
    sparse = sparse_convolution(module, mask)
    if path in situation.uses_by_path:
        return as_timed(path, module, sparse, situation, name, mask)
    limit = situation.machine.convolution
    dense, reason = sparse.plan.density >= limit, beside(sparse.plan.density, limit, limit_of=" of convolutions")
    if dense and _any_sparse_beside(path, limit, situation):
        dense, reason = False, f"{reason}, but its neighbours are sparse and stay in the kernels' layout"
    sparse.compute_dense = dense
    return sparse, [LayerReport.of(name, weight, mask, Choice.DENSE if dense else Choice.SPARSE, reason, held=True)]


def _why_no_convolution(module: Any) -> str | None:
    if module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode!r}: the kernels pad with zeros"
    sizes = zip(module.dilation, module.kernel_size, strict=True)
    if module.padding == "same" and any(d * (k - 1) % 2 for d, k in sizes):
        return "it pads its two sides differently"
    return None


def _any_sparse_beside(path: str, limit: float, situation: Situation) -> bool:
    """Tell whether a convolution in the same Sequential is sparse on its own account."""
    parent = situation.model.get_submodule(path.rpartition(".")[0])
    weights = [m.weight for m in parent.children() if isinstance(m, nn.Conv1d | nn.Conv2d)]
    masks = [mask for weight in weights if (mask := situation.mask(weight)) is not None]
    return type(parent) is nn.Sequential and any(int(m.count_nonzero()) < limit * m.numel() for m in masks)


def _recurrent(path: str, module: nn.LSTM | nn.GRU, situation: Situation) -> Chosen:
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    own = {name: mask for name, p in parameters.items() if (mask := situation.mask(p)) is not None}
    weights = {name: p for name, p in parameters.items() if name.startswith("weight")}
    reason = situation.why_not(module, nn.LSTM, nn.GRU) or _why_no_recurrent(module, own)
    reason = reason or refused_by_kernels(module) or (None if own.keys() & weights.keys() else "it has no mask")
    new, choice = (sparse_recurrent(module, own) if reason is None else None), Choice.UNTOUCHED
    if new is not None and path in situation.uses_by_path:
        found = timed(module, new, situation.uses_by_path[path])
        wins, reason = situation.takes_sparse(found.sparse_wins), str(found)
        new, choice = (new, Choice.SPARSE) if wins else (None, Choice.DENSE)
    elif new is not None:
        limit = recurrent_break_even(situation.machine, module.hidden_size, situation.batch, gru=new.gru)
        new.compute_dense = new.density >= limit
        choice = Choice.DENSE if new.compute_dense else Choice.SPARSE
        reason = beside(new.density, limit, what=" of the layer")
    lines: list[LayerReport] = []
    for name, p in parameters.items():
        mask, why = own.get(name), reason
        if new is not None and p.dim() == 1:
            why = "kept whole" if mask is None or bool(mask.any()) else "pruned whole: a constant zero"
        if name in weights or mask is not None:
            held = choice is not Choice.UNTOUCHED
            lines.append(LayerReport.of(situation.name(path, name, p), p, mask, choice, why or "", held=held))
    return new, lines


def _why_no_recurrent(module: Any, masks: dict[str, Tensor]) -> str | None:
    if module.proj_size:
        return f"proj_size={module.proj_size}: the kernels have no projection of the state"
    for name, mask in masks.items():
        if name.startswith("bias") and bool(mask.any()) and not bool(mask.all()):
            return f"{name} is partly masked; a bias must be kept or pruned whole"
    return None
