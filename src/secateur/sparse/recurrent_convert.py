"""From an `nn.LSTM` or `nn.GRU` to a sparse one and back; `sparsify` and `densify` call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.machine import Machine
from secateur.sparse.recurrent import RecurrentOptions, SparseGRU, SparseLSTM, SparseRecurrent
from secateur.sparse.recurrent_plan import RecurrentPlan, plan_recurrent
from secateur.sparse.report import Choice, LayerReport

__all__ = ["choose_recurrent", "dense_recurrent", "is_recurrent", "sparse_recurrent"]


def is_recurrent(module: nn.Module) -> bool:
    """Tell whether this is one of torch's LSTM or GRU layers."""
    return isinstance(module, nn.LSTM | nn.GRU)


def sparse_recurrent(module: nn.LSTM | nn.GRU, masks: Mapping[str, Tensor]) -> SparseRecurrent:
    """Take the surviving weights out of a dense layer, as copies.

    Args:
        module: the dense layer.
        masks: by the layer's own names ("weight_ih_l0"); a weight without one keeps all, a bias must be kept or
            pruned whole. A pruned bias becomes a constant zero.

    >>> layer = nn.GRU(3, 2)
    >>> sparse = sparse_recurrent(layer, {"weight_ih_l0": torch.eye(6, 3) > 0})
    >>> [(name, tuple(p.shape)) for name, p in sparse.named_parameters()][:2]
    [('values_ih_l0', (3,)), ('values_hh_l0', (12,))]
    """
    options = RecurrentOptions(
        module.input_size, module.hidden_size, module.num_layers, module.bias,
        module.batch_first, module.dropout, module.bidirectional,
    )  # fmt: skip
    gru = isinstance(module, nn.GRU)
    plans: list[RecurrentPlan] = []
    tensors: dict[str, Tensor] = {}
    constants: set[str] = set()
    empty = {name for name, mask in masks.items() if name.startswith("bias") and not bool(mask.any())}
    for suffix in options.suffixes:
        weights: list[Tensor] = [getattr(module, f"weight_{which}_{suffix}") for which in ("ih", "hh")]
        full = [torch.ones_like(w, dtype=torch.bool) for w in weights]
        kept = [masks.get(f"weight_{which}_{suffix}", all_) for which, all_ in zip(("ih", "hh"), full, strict=True)]
        plan = plan_recurrent(kept[0], kept[1], gru=gru)
        plans.append(plan)
        for which, weight in zip(("ih", "hh"), weights, strict=True):
            values = plan.gather(weight.detach(), state=which == "hh")
            tensors[f"values_{which}_{suffix}"] = values.requires_grad_(weight.requires_grad)
        for name in (f"bias_ih_{suffix}", f"bias_hh_{suffix}") if options.bias else ():
            bias: Tensor = getattr(module, name)
            pruned = name in empty
            if pruned or name in module._buffers:
                constants.add(name)
            copy = torch.zeros_like(bias) if pruned else bias.detach().clone()
            tensors[name] = copy.detach().requires_grad_(bias.requires_grad and not pruned)
    kind = SparseGRU if gru else SparseLSTM
    sparse = kind(options, tuple(plans), tensors, constants=frozenset(constants), pruned=frozenset(empty))
    return sparse.train(module.training)


def dense_recurrent(module: SparseRecurrent) -> nn.LSTM | nn.GRU:
    """Return the dense layer again, bit for bit; constants that `sparsify` found stay buffers."""
    o = module.options
    kind = nn.GRU if module.gru else nn.LSTM
    dense = kind(
        o.input_size, o.hidden_size, o.num_layers, bias=o.bias, batch_first=o.batch_first,
        bidirectional=o.bidirectional, device="meta",
    )  # fmt: skip
    dense.dropout = o.dropout  # torch warns where it has no effect, as it did when the layer was first made
    for index, suffix in enumerate(o.suffixes):
        plan = module.plans[index]
        values_ih, values_hh, *_ = module.direction(index)
        assert values_ih is not None and values_hh is not None
        for which, values in (("ih", values_ih), ("hh", values_hh)):
            weight = plan.scatter(values.detach(), state=which == "hh")
            setattr(dense, f"weight_{which}_{suffix}", nn.Parameter(weight, requires_grad=values.requires_grad))
        for name in (f"bias_ih_{suffix}", f"bias_hh_{suffix}") if o.bias else ():
            bias: Tensor = getattr(module, name)
            if name in module._buffers and name not in module.pruned:
                delattr(dense, name)
                dense.register_buffer(name, bias.detach().clone())
            else:
                trains = bias.requires_grad or name in module.pruned
                setattr(dense, name, nn.Parameter(bias.detach().clone(), requires_grad=trains))
    return dense.train(module.training)


def choose_recurrent(
    path: str,
    module: nn.Module,
    names: Mapping[int, str],
    masks: Mapping[str, Tensor],
    uses: Mapping[int, int],
    machine: Machine,
    batch: int,
) -> tuple[nn.Module | None, list[LayerReport]]:
    """Choose how a recurrent layer runs; return its replacement, or None, and a line for each of its weights."""
    assert isinstance(module, nn.LSTM | nn.GRU)
    own = {name: masks[names[id(p)]] for name, p in module._parameters.items() if id(p) in names}
    weights = {n: p for n, p in module._parameters.items() if n.startswith("weight") and p is not None}
    reason = _why_not(module, own, uses)
    kept = sum(int(own[n].count_nonzero()) if n in own else p.numel() for n, p in weights.items())
    total = sum(p.numel() for p in weights.values())
    if reason is None and not any(n.startswith("weight") for n in own):
        reason = "it has no mask"
    new: nn.Module | None = None
    choice = Choice.UNTOUCHED
    if reason is None:
        sparse = new = sparse_recurrent(module, own)
        # What a step of such a layer multiplies by, and what the break-even was measured for.
        columns = total // max(sum(p.rows for p in sparse.plans), 1)
        limit = machine.break_even(sparse.plans[0].rows, columns, batch)
        sparse.compute_dense = kept / total >= limit
        side = "above" if sparse.compute_dense else "below"
        choice = Choice.DENSE if sparse.compute_dense else Choice.SPARSE
        reason = f"density {_percent(kept / total)} of the layer is {side} break-even {_percent(limit)}"
    lines = [
        _line(f"{path}.{n}" if path else n, p, own.get(n), choice, reason, new is not None)
        for n, p in module._parameters.items()
        if p is not None and (n in weights or n in own)
    ]
    return new, lines


def _line(name: str, parameter: Tensor, mask: Tensor | None, choice: Choice, reason: str, held: bool) -> LayerReport:
    kept = parameter.numel() if mask is None else int(mask.count_nonzero())
    if held and parameter.dim() == 1:
        reason = "pruned whole: a constant zero" if kept == 0 else "kept whole"
    return LayerReport(name, tuple(parameter.shape), kept, parameter.numel(), choice, reason, held)


def _percent(density: float) -> str:
    return f"{density * 100:.2g} %" if density < 0.995 else "100 %"


def _why_not(module: Any, own: Mapping[str, Tensor], uses: Mapping[int, int]) -> str | None:
    """Tell why a recurrent layer cannot be swapped, or return None."""
    if type(module) not in (nn.LSTM, nn.GRU):
        return f"it is a {type(module).__name__}, not a plain nn.LSTM or nn.GRU"
    if module.proj_size:
        return f"proj_size={module.proj_size}: the kernels have no projection of the state"
    parameters = [p for p in module._parameters.values() if p is not None]
    if any(uses[id(p)] > 1 for p in parameters):
        return "its parameters are shared with another layer"
    for name, mask in own.items():
        if name.startswith("bias") and bool(mask.any()) and not bool(mask.all()):
            return f"{name} is partly masked; a bias must be kept or pruned whole"
    for tensor in (*parameters, *(b for b in module._buffers.values() if b is not None)):
        if tensor.dtype is not torch.float32 or tensor.device.type != "cpu":
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"its weights are {kind} on {tensor.device.type}; the kernels take float32 on cpu"
    return None
