"""Which convolutions `sparsify` makes sparse, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.sparse.convert._report import Choice, LayerReport
from secateur.sparse.layers._convolution import SparseConvolution, sparse_convolution
from secateur.sparse.measured._machine import Machine

__all__ = ["choose_convolution", "is_convolution"]


def is_convolution(module: nn.Module) -> bool:
    """Tell whether this is one of torch's convolutions over sequences or images."""
    return isinstance(module, nn.Conv1d | nn.Conv2d)


def choose_convolution(
    path: str, module: nn.Module, names: Mapping[int, str], masks: Mapping[str, Tensor], uses: Mapping[int, int],
    machine: Machine, parent: nn.Module,
) -> tuple[SparseConvolution | None, LayerReport]:  # fmt: skip
    """Choose how a convolution runs; return its replacement, or None, and the line of the report.

    In a Sequential with sparse convolutions a denser one is sparse as well: to leave the kernels' layout for it and
    to come back costs more than it would gain.
    """
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    weight = module.weight
    name = names.get(id(weight))
    mask = None if name is None else masks[name]
    kept = weight.numel() if mask is None else int(mask.count_nonzero())
    reason = _why_not(module, names, uses)
    if reason is None and (mask is None or kept == weight.numel()):
        reason = "it has no mask" if mask is None else "its mask keeps every weight"
    shown = name or (f"{path}.weight" if path else "weight")
    if reason is not None or mask is None:
        line = LayerReport(shown, tuple(weight.shape), kept, weight.numel(), Choice.UNTOUCHED, reason or "", False)
        return None, line
    density, limit = kept / weight.numel(), machine.convolution
    sparse = sparse_convolution(module, mask)
    joined = type(parent) is nn.Sequential and _any_below(parent, limit, names, masks)
    sparse.compute_dense = density >= limit and not joined
    choice = Choice.DENSE if sparse.compute_dense else Choice.SPARSE
    side = "above" if density >= limit else "below"
    reason = f"density {density * 100:.2g} % is {side} break-even {limit * 100:.2g} % of convolutions"
    if density >= limit and joined:
        reason += ", but its neighbours are sparse and stay in the kernels' layout"
    return sparse, LayerReport(shown, tuple(weight.shape), kept, weight.numel(), choice, reason, True)


def _any_below(parent: nn.Module, limit: float, names: Mapping[int, str], masks: Mapping[str, Tensor]) -> bool:
    """Tell whether a convolution among the parent's children is sparse on its own account."""
    weights = [m.weight for m in parent.children() if isinstance(m, nn.Conv1d | nn.Conv2d)]
    found = [masks[names[id(w)]] for w in weights if id(w) in names]
    return any(int(mask.count_nonzero()) < limit * mask.numel() for mask in found)


def _why_not(module: Any, names: Mapping[int, str], uses: Mapping[int, int]) -> str | None:
    """Tell why a convolution cannot be swapped, or return None."""
    if type(module) not in (nn.Conv1d, nn.Conv2d):
        return f"it is a {type(module).__name__}, not a plain nn.Conv1d or nn.Conv2d"
    if module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode!r}: the kernels pad with zeros"
    if module.padding == "same" and any(
        d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)
    ):
        return "it pads its two sides differently"
    if any(uses[id(p)] > 1 for p in module.parameters(recurse=False)):
        return "its parameters are shared with another layer"
    if id(module.bias) in names:
        return "its bias is masked too"
    if module.weight.dtype is not torch.float32 or module.weight.device.type != "cpu":
        kind = str(module.weight.dtype).removeprefix("torch.")
        return f"its weights are {kind} on {module.weight.device.type}; the kernels take float32 on cpu"
    return None
