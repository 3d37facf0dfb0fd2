"""Equal lowest scores: where the method does not say which weights stay, the index would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from secateur._base.errors import ScoreError, TiedScoresWarning
from secateur._base.warn import warn
from secateur._base.zeros import all_true, count_true
from secateur.axes import Score
from secateur.measures import Needs
from secateur.selection import Chosen

Bits = Mapping[str, Tensor]

_PROBES = 1 << 12


class _Ties(NamedTuple):
    """The units of one tensor that share its lowest score: how many stay, of how many, and that score."""

    kept: int
    all: int
    score: float


def report_ties(scores: Mapping[str, Tensor], keep: Bits, alive: Bits | None, score: Score, *, last: bool) -> None:
    """Refuse scores that tell nothing apart, and warn where the cut runs through equal lowest ones.

    Args:
        scores: one number per unit.
        keep: which units stay.
        alive: which units could have stayed; None: all.
        score: what made the scores; the weights' own values may all be equal, a measurement may not.
        last: whether what is chosen here is the result; before that, a later round sees the weights again.
    """
    if not last and score.needs is Needs.NOTHING:
        return  # nothing that is found would be said
    clear = {name for name in scores if alive is None and _reaches_below(scores[name], _least_kept(keep, name, scores))}
    living = {
        name: _living(tensor, keep[name], None if alive is None else alive[name])
        for name, tensor in scores.items()
        if name not in clear
    }
    found = {name: _lowest(*both) for name, both in living.items() if both[0].numel()}
    equal = {ties.score for ties in found.values()}
    all_equal = (
        not clear and len(equal) == 1 and all(ties.all == living[name][0].numel() for name, ties in found.items())
    )
    some_go = any(not all_true(bits) for _, bits in living.values()) if all_equal else True
    if all_equal and some_go and score.needs is not Needs.NOTHING:
        raise ScoreError(
            f"All scores are equal ({equal.pop():g}): nothing tells the weights apart, and the mask would be the first "
            "ones by index. Likely causes: a loss that is constant in the weights, labels that do not matter to it, or "
            "an output layer of zeros."
        )
    tied = {name: ties for name, ties in found.items() if 0 < ties.kept < ties.all}
    if last and tied:
        _warn(tied)


def _warn(tied: Mapping[str, _Ties]) -> None:
    kept, all_ = sum(ties.kept for ties in tied.values()), sum(ties.all for ties in tied.values())
    where = ", ".join(f"{name} ({ties.kept} of {ties.all})" for name, ties in list(tied.items())[:3])
    values = ", ".join(sorted({f"{ties.score:.3g}" for ties in tied.values()})[:3])
    warn(
        f"{kept} of {all_} units that share the lowest score of their layer ({values}) were kept, by their index and "
        f"not by the method: {where}{', …' if len(tied) > 3 else ''}. The density is higher than the scores can "
        "tell apart: lower it, or score on more batches.",
        TiedScoresWarning,
    )


def _living(scores: Tensor, keep: Tensor, alive: Tensor | None) -> tuple[Tensor, Tensor]:
    return (scores, keep) if alive is None else (scores[alive], keep[alive])


def _least_kept(keep: Bits, name: str, scores: Bits) -> float | None:
    return keep.lower_bound(name, scores[name]) if isinstance(keep, Chosen) else None


def _reaches_below(scores: Tensor, least: float | None) -> bool:
    """Whether some of these scores is seen to be lower than all that are kept: then no lowest one is, equal or not.

    A few of them are looked at, and nearly always that is enough.
    """
    if least is None:
        return False
    return bool((scores.reshape(-1)[:: max(1, scores.numel() // _PROBES)] < least).any())


def _lowest(scores: Tensor, keep: Tensor) -> _Ties:
    """Count the units that share the lowest score. Where few rows have any, only those are looked at again."""
    low = scores
    if scores.dim() > 1:
        low = scores.flatten(1).amin(1)
        here = low == low.amin()
        if 2 * count_true(here) < len(here):
            scores, keep = scores[here], keep[here]
    value = low.amin()
    tied = scores == value
    return _Ties(count_true(tied & keep), count_true(tied), float(value))
