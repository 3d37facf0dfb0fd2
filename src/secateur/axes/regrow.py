"""Whether pruned weights may come back: by which score, how many, and with what value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes._moment import Bits, Moment
from secateur.axes._score import Score
from secateur.selection import topk_mask

#: Optimizer step → the fraction of a layer's units that is exchanged.
Fraction = Callable[[int], float]
Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Regrow:
    """How pruned units return.

    Attributes:
        name: as printed.
        by: the score by which dead units grow, highest first; None where nothing grows by a score of its own.
        fraction: which part of each layer's living units is exchanged at a step.
        start: the score by which the first units are chosen (RigL and SET start from a random network); None: the
            method's own.
        online: whether it only makes sense while the network trains.
        revives: whether dead units compete with the living in every round, at the value they had before (FORCE).
        just_dropped: whether a unit may be dropped and grown in one step; it then keeps its value.
    """

    name: str
    by: Score | None = None
    fraction: Fraction | None = field(default=None)
    start: Score | None = None
    online: bool = True
    revives: bool = False
    just_dropped: bool = True

    @property
    def scores(self) -> tuple[Score, ...]:
        """All scores that it asks for."""
        return tuple(score for score in (self.by, self.start) if score is not None)

    def exchange(self, moment: Moment, alive: Bits, scores: Scores, growth: Scores) -> dict[str, Tensor]:
        """Drop the lowest `scores` of each layer and grow as many of the highest `growth`: counts stay as they are.

        With n_l living units in layer l and f the fraction at this step, k_l = ⌊f·n_l⌋ units go, and k_l come; no
        more than the layer has room for.
        """
        part = 0.0 if self.fraction is None else self.fraction(moment.step)
        return {name: self._exchange_one(bits, scores[name], growth[name], part) for name, bits in alive.items()}

    def _exchange_one(self, alive: Tensor, scores: Tensor, growth: Tensor, part: float) -> Tensor:
        living = int(alive.count_nonzero())
        moved = min(math.floor(part * living + 1e-9), alive.numel() - living)
        if moved == 0:
            return alive.clone()
        stay = _best(scores, among=alive, count=living - moved)
        closed = stay if self.just_dropped else alive
        return stay | _best(growth, among=~closed, count=moved)


def _best(scores: Tensor, *, among: Tensor, count: int) -> Tensor:
    """The `count` highest scores `among` the entries allowed, exactly, ties by lower index."""
    if count == 0:
        return torch.zeros_like(among)
    worst = torch.full((), torch.finfo(scores.dtype).min, dtype=scores.dtype, device=scores.device)
    chosen = topk_mask({"": torch.where(among, scores, worst)}, count)[""]
    return chosen & among


def revive() -> Regrow:
    """Let pruned weights re-enter the ranking with their original value; their gradient is taken at the pruned point.

    Source: FORCE, arXiv 2006.09081, §4.2.
    """
    return Regrow("revive", online=False, revives=True)


def drop_and_grow(by: Score, fraction: Fraction, *, start: Score | None = None, just_dropped: bool = True) -> Regrow:
    """Exchange a fraction of each layer at every milestone: lowest scores go, the highest of `by` come, from zero.

    Args:
        by: what the dead are worth, for example the magnitude of their dense gradient, or noise.
        fraction: step → fraction of the living units of each layer; see `cosine` and `constant`.
        start: the score of the first choice; None: the method's own.
        just_dropped: whether what has just been dropped may grow again.
    """
    return Regrow("drop_and_grow", by=by, fraction=fraction, start=start, just_dropped=just_dropped)


@dataclass(frozen=True)
class Cosine:
    """f(t) = α/2 · (1 + cos(π t/T)) for t < T, then 0."""

    start: float
    until: int

    def __call__(self, step: int) -> float:
        return self.start / 2 * (1 + math.cos(math.pi * min(step, self.until) / self.until))


@dataclass(frozen=True)
class Constant:
    """The same fraction at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


def cosine(start: float, *, until: int) -> Cosine:
    """Exchange α = `start` of each layer at first and nothing from step T = `until` on: α/2·(1 + cos(π t/T)).

    Source: RigL, arXiv 1911.11134, §3, item (2).

    >>> round(cosine(0.3, until=100)(50), 3)
    0.15
    """
    _check_fraction(start)
    if until < 1:
        raise SecateurError(f"`until` must be at least 1 step, got {until}.")
    return Cosine(start, until)


def constant(fraction: float) -> Constant:
    """Exchange the same fraction of each layer at every milestone (SET)."""
    _check_fraction(fraction)
    return Constant(fraction)


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise SecateurError(f"`fraction` must be in [0, 1), got {fraction}: the part of a layer's weights to exchange.")
