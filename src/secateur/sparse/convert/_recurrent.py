"""Choose how an `nn.LSTM` or `nn.GRU` runs; `sparsify` calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.convert._report import Choice, LayerReport
from secateur.sparse.layers._recurrent_build import dense_recurrent, is_recurrent, sparse_recurrent
from secateur.sparse.measured._machine import Machine
from secateur.sparse.measured._recurrent import recurrent_break_even

__all__ = ["choose_recurrent", "dense_recurrent", "is_recurrent", "sparse_recurrent"]


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
        limit = recurrent_break_even(machine, module.hidden_size, batch, gru=sparse.gru)
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
