"""Whether the smaller model is faster here, measured in turns; and if it is not, why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.costing import Call, Cost, forward, milliseconds, serving, why_no_faster
from secateur.turns import decide

__all__ = ["Timing", "timing"]

_SECONDS = 1.0


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
    why = "" if verdict.second_is_faster else why_no_faster(small, call, before, after, verdict.second)
    return Timing(verdict.first, verdict.second, verdict.ratio, verdict.spread, why)
