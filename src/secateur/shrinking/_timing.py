"""Whether the smaller model is faster here, measured in turns; and if it is not, why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from secateur.costing import Call, Cost, LayerCost, forward, layer_latencies, milliseconds, serving
from secateur.turns import Verdict, decide

__all__ = ["Timing", "timing"]

_SECONDS = 1.0
_CALL = 12e-6  # seconds that an operation takes at least, whatever its width: Python, dispatch, a tensor made
_ODD = 8
_MANY = 0.5  # of the time
_HARDLY = 0.9  # of the multiplications


@dataclass(frozen=True)
class Timing:
    """Seconds of a forward on the example in eval mode, before and after, measured in turns.

    Attributes:
        before: of the model of full size, at best.
        after: of the smaller model, at best.
        ratio: after / before, the median over groups of turns.
        spread: how far the groups' ratios lie from that at most, as a share of it.
        why: why it is no faster here; "" where it is.
    """

    before: float
    after: float
    ratio: float
    spread: float
    why: str = ""

    def __str__(self) -> str:
        said = f"{milliseconds(self.before)} -> {milliseconds(self.after)} ms at best"
        if self.why:
            return f"{said}: no faster here, because {self.why}"
        return f"{said}: {1 / self.ratio:.2f} times as fast (± {self.spread:.0%}, in turns)"


def timing(model: nn.Module, small: nn.Module, call: Call, before: Cost, after: Cost) -> Timing:
    """Time both in turns, and find a reason where the smaller is no faster.

    Args:
        model: of full size; it is as before afterwards.
        small: the smaller one.
        call: example inputs.
        before: what the model costs.
        after: what the smaller one costs.
    """
    with serving(model, small):
        verdict = decide(forward(model, call), forward(small, call), seconds=_SECONDS)
    why = "" if verdict.second_is_faster else _reason(small, call, before, after, verdict)
    return Timing(verdict.first, verdict.second, verdict.ratio, verdict.spread, why)


def _reason(small: nn.Module, call: Call, before: Cost, after: Cost, verdict: Verdict) -> str:
    if before.macs and after.macs > _HARDLY * before.macs:
        return f"{after.macs / before.macs:.0%} of its multiplications stayed"
    if verdict.second < _CALL * after.operations:
        return (
            f"most of its time goes into calling {after.operations} operations, which takes as long for any width: "
            f"{verdict.second / max(1, after.operations) * 1e6:.0f} µs for each"
        )
    spent = layer_latencies(small, call, _SECONDS / 4)
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
