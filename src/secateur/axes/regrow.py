"""Whether pruned weights may come back: by which score, how many, and with what value.

It is made of few choices: which units leave (`fraction`, or a rule such as `flipped`), how many come to each layer (as
many as left, or a rule such as `by_survivors`), which (the highest of a score), and how the first ones are chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes._exchange import (
    Adaptive,
    Anywhere,
    ByGrowth,
    BySurvivors,
    Exchange,
    Flipped,
    Fraction,
    Leave,
    Scores,
    Share,
    Spared,
    Weakest,
    exchanged,
)
from secateur.axes._moment import Bits, Moment
from secateur.axes._scope import Scope
from secateur.axes._score import Score

__all__ = [
    "Exchange",
    "Fraction",
    "Leave",
    "Regrow",
    "Share",
    "adaptive",
    "anywhere",
    "by_growth",
    "by_survivors",
    "constant",
    "cosine",
    "drop_and_grow",
    "flipped",
    "revive",
    "soft",
    "spared",
]


@dataclass(frozen=True)
class Regrow:
    """How pruned units return.

    Attributes:
        name: as printed.
        by: the score by which dead units grow, highest first; None where nothing grows by a score of its own.
        fraction: which part of each layer's living units is exchanged at a step.
        start: the score by which the first units are chosen (RigL and SET start from a random network); None: the
            method's own.
        quota: who competes in that first choice, where it is not as later on; None: the method's scope.
        leave: which of the living stay, instead of all but the lowest `fraction` of each layer.
        share: how many come to each layer; None: as many as left it.
        online: whether it only makes sense while the network trains.
        revives: whether dead units compete with the living in every round, at the value they had before (FORCE).
        just_dropped: whether a unit may be dropped and grown in one step; it then keeps its value.
        soft: whether what is cut is set to zero and goes on training, until the last milestone cuts for good (SFP).
    """

    name: str
    by: Score | None = None
    fraction: Fraction | None = field(default=None)
    start: Score | None = None
    quota: Scope | None = None
    leave: Leave | None = None
    share: Share | None = None
    online: bool = True
    revives: bool = False
    just_dropped: bool = True
    soft: bool = False

    @property
    def scores(self) -> tuple[Score, ...]:
        """All scores that it asks for."""
        return tuple(score for score in (self.by, self.start) if score is not None)

    def exchange(self, moment: Moment, alive: Bits, scores: Scores, growth: Scores) -> dict[str, Tensor]:
        """Drop the lowest `scores` and grow as many of the highest `growth`: the total stays as it is.

        With n_l living units in layer l and f the fraction at this step, k_l = ⌊f·n_l⌋ units go, and k_l come; no
        more than the layer has room for. With `leave` and `share` these say which go, and how many come where.
        """
        one = Exchange(moment, alive, scores, growth)
        leave = self.leave or Weakest(self.fraction or Constant(0.0))
        return exchanged(one, leave, self.share, just_dropped=self.just_dropped)


def revive() -> Regrow:
    """Let pruned weights re-enter the ranking with their original value; their gradient is taken at the pruned point.

    Source: FORCE, arXiv 2006.09081, §4.2.
    """
    return Regrow("revive", online=False, revives=True)


def soft() -> Regrow:
    """Set what is cut to zero and let it train on, to compete again at the next milestone; the last one cuts for good.

    What is zeroed keeps its place in the optimizer and its momentum: it begins anew at zero with the next step.
    Source: SFP, arXiv 1808.06866, §3.
    """
    return Regrow("soft", soft=True)


def drop_and_grow(
    by: Score,
    fraction: Fraction | None = None,
    *,
    start: Score | None = None,
    quota: Scope | None = None,
    leave: Leave | None = None,
    share: Share | None = None,
    just_dropped: bool = True,
) -> Regrow:
    """Exchange units at every milestone: lowest scores go, the highest of `by` come, from zero.

    Args:
        by: what the dead are worth, for example the magnitude of their dense gradient, or noise.
        fraction: step → fraction of the living units of each layer; see `cosine` and `constant`.
        start: the score of the first choice; None: the method's own.
        quota: who competes in the first choice; None: as later on.
        leave: which stay, instead of all but a fraction: `flipped`, `adaptive`, `spared`, or your own.
        share: how many come to each layer: `by_growth`, `by_survivors`, `anywhere`; None: as many as left it.
        just_dropped: whether what has just been dropped may grow again.
    """
    if (fraction is None) == (leave is None):
        raise SecateurError(
            f"drop_and_grow needs `fraction` or `leave`, and not both, got fraction={fraction} and leave={leave}. "
            "`fraction` is the short way to say that the weakest of each layer leave."
        )
    return Regrow(
        "drop_and_grow",
        by=by,
        fraction=fraction,
        start=start,
        quota=quota,
        leave=leave,
        share=share,
        just_dropped=just_dropped,
    )


# --- how much leaves ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cosine:
    """f(t) = α' + (α − α')/2 · (1 + cos(π (t − t₀)/(T − t₀))) for t < T, then α'."""

    start: float
    until: int
    begin: int = 0
    end: float = 0.0

    def __call__(self, step: int) -> float:
        progress = (min(max(step, self.begin), self.until) - self.begin) / (self.until - self.begin)
        return self.end + (self.start - self.end) / 2 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Constant:
    """The same fraction at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


def cosine(start: float, *, until: int, begin: int = 0, end: float = 0.0) -> Cosine:
    """Exchange α = `start` of each layer at t₀ (`begin`), less and less, and α' = `end` at T = `until`.

    f(t) = α' + (α − α')/2·(1 + cos(π (t − t₀)/(T − t₀))): the clock runs on t − t₀, not on t.
    Source: RigL, arXiv 1911.11134, §3, item (2), with α' = 0; ITOP, SNFS and GraNet end at 0.005.

    >>> round(cosine(0.3, until=100)(50), 3)
    0.15
    """
    _check_fraction(start)
    _check_fraction(end)
    if until < 1:
        raise SecateurError(f"`until` must be at least 1 step, got {until}.")
    if not 0 <= begin < until:
        raise SecateurError(
            f"`begin` must be before `until`, got begin={begin} and until={until}: the exchanges would end before they "
            "begin."
        )
    return Cosine(start, until, begin, end)


def constant(fraction: float) -> Constant:
    """Exchange the same fraction of each layer at every milestone (SET)."""
    _check_fraction(fraction)
    return Constant(fraction)


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise SecateurError(f"`fraction` must be in [0, 1), got {fraction}: the part of a layer's weights to exchange.")


def spared(fraction: Fraction) -> Leave:
    """Let the weakest fraction of each layer go, but of a nearly dense layer that is about to grow only a little.

    A layer with a sparsity below 20 % whose mean growth score is above the layers' average loses no larger part than
    its sparsity. Source: the code of SNFS, arXiv 1907.04840.
    """
    return Spared(fraction)


def flipped() -> Leave:
    """Let every weight go that has crossed zero, in whatever layer; the method's score is the weight with its sign.

    A weight has one sign for life: the living the one they have at the first exchange, the dead one that is drawn then.
    The signs are in the `Pruner`'s state. Source: Deep-R, arXiv 1711.05136, Algorithm 1.
    """
    return Flipped()


def adaptive(fraction: float, *, start: float = 1e-3, tolerance: float = 0.1) -> Leave:
    """Let every unit go that scores less than one threshold H, which follows how many that are.

    If more than (1 + δ)·f of all living units went, H is halved for the next time; if fewer than (1 − δ)·f, doubled.
    Every layer keeps its best one. H is in the `Pruner`'s state.

    Args:
        fraction: f, the part of all living units that should go each time.
        start: the first H.
        tolerance: δ.

    Source: DSR, arXiv 1902.05967, Algorithm 1.
    """
    _check_fraction(fraction)
    if not (start > 0 and 0 <= tolerance < 1):
        raise SecateurError(f"adaptive needs start > 0 and 0 <= tolerance < 1, got start={start}, {tolerance=}.")
    return Adaptive(fraction, start, tolerance)


# --- how much comes -----------------------------------------------------------------------------------------------


def by_growth(*, fill: float = 0.99) -> Share:
    """Let units come to each layer in proportion to the mean growth score of its living units.

    No layer gets more than `fill` of its free places; what does not fit goes to the others.
    Source: SNFS, arXiv 1907.04840, §3.
    """
    if not 0 < fill <= 1:
        raise SecateurError(f"`fill` must be in (0, 1], got {fill}: the part of a layer's free places to be taken.")
    return ByGrowth(fill)


def by_survivors() -> Share:
    """Let units come to each layer in proportion to how many stayed there (DSR, arXiv 1902.05967, Algorithm 1)."""
    return BySurvivors()


def anywhere() -> Share:
    """Let units come wherever the growth score is highest, in one ranking over all layers."""
    return Anywhere()
