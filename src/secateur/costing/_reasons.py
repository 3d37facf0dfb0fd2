"""Why a cheaper model is no faster here: a reason that can be checked."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from secateur.costing._call import Call
from secateur.costing._cost import Cost, LayerCost
from secateur.costing._latency import layer_latencies

__all__ = ["why_no_faster"]

_SECONDS = 0.25  # to time its layers
_CALL = 12e-6  # seconds that an operation takes at least, whatever its width: Python, dispatch, a tensor made
_ODD = 8
_MANY = 0.5  # of the time
_HARDLY = 0.9  # of the multiplications


def why_no_faster(small: nn.Module, call: Call, before: Cost, after: Cost, seconds: float) -> str:
    """Find a reason why a model that was to be faster is not.

    Args:
        small: the cheaper model; its layers are timed where counting explains nothing.
        call: example inputs.
        before: what the model of full size costs.
        after: what the cheaper one costs.
        seconds: that a forward of the cheaper one takes.
    """
    if before.macs and after.macs > _HARDLY * before.macs:
        return f"{after.macs / before.macs:.0%} of its multiplications stayed"
    if seconds < _CALL * after.operations:
        return (
            f"most of its time goes into calling {after.operations} operations, which takes as long for any width: "
            f"{seconds / max(1, after.operations) * 1e6:.0f} µs for each"
        )
    spent = layer_latencies(small, call, _SECONDS)
    whole = sum(spent.values())
    idle = [layer for layer in after.layers if not layer.macs and layer.name in spent]
    share = sum(spent[layer.name] for layer in idle) / whole if whole else 0.0
    if share > _MANY:
        kinds = ", ".join(sorted({layer.kind for layer in idle})[:4])
        return f"{share:.0%} of its time is in layers that multiply nothing ({kinds})"
    if odd := _odd_widths(small, after.layers):
        return f"widths such as {odd[0]} suit no vector of this processor: `multiples={_ODD}` keeps those that do"
    return f"its {after.macs / max(1, before.macs):.0%} of the multiplications run no faster than all did before"


def _odd_widths(small: nn.Module, layers: Iterable[LayerCost]) -> list[int]:
    modules = dict(small.named_modules())
    weights = [getattr(modules[layer.name], "weight", None) for layer in layers if layer.macs and layer.name in modules]
    return [weight.shape[0] for weight in weights if isinstance(weight, nn.Parameter) and weight.shape[0] % _ODD]
