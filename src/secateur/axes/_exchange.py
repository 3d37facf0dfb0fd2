"""One exchange of units, rule by rule: which of the living stay, and how many come to each layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.zeros import count_true
from secateur.axes._moment import Bits, Moment
from secateur.axes._quota import apportioned
from secateur.measures import from_first_rank, reduced
from secateur.selection import at_least, exchanged_at_once, topk_mask

#: Optimizer step → the fraction of a layer's units that is exchanged.
Fraction = Callable[[int], float]
Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Exchange:
    """What an exchange starts from.

    Attributes:
        moment: when, and what is known.
        alive: which units live, one boolean tensor per parameter, in the shape of the scores.
        scores: what the living are worth.
        growth: what the dead are worth.
    """

    moment: Moment
    alive: Bits
    scores: Scores
    growth: Scores

    def left(self, stay: Bits) -> dict[str, int]:
        """How many units each layer loses if only `stay` do."""
        return {name: count_true(bits) - count_true(stay[name]) for name, bits in self.alive.items()}


#: Which of the living stay: an exchange → one boolean tensor per parameter.
Leave = Callable[[Exchange], Bits]
#: How many come to each layer: (exchange, which stay, which places are free) → counts that add up to those that left.
Share = Callable[[Exchange, Bits, Bits], Mapping[str, int]]


def best(scores: Tensor, *, among: Tensor, count: int) -> Tensor:
    """The `count` highest scores `among` the entries allowed, exactly, ties by lower index."""
    if count == 0:
        return torch.zeros_like(among)
    chosen = topk_mask({"": torch.where(among, scores, _worst(scores))}, count)[""]
    return chosen & among


def _worst(scores: Tensor) -> Tensor:
    return torch.full((), torch.finfo(scores.dtype).min, dtype=scores.dtype, device=scores.device)


def exchanged(one: Exchange, leave: Leave, share: Share | None, *, just_dropped: bool) -> dict[str, Tensor]:
    """Let some leave, and fill their places: each layer its own, or as `share` says."""
    if isinstance(leave, Weakest) and share is None:
        found = exchanged_at_once(one.scores, one.growth, one.alive, leave.moved(one), just_dropped=just_dropped)
        if found is not None:
            return found
    stay = leave(one)
    left = one.left(stay)
    free = {name: ~(stay[name] if just_dropped else bits) for name, bits in one.alive.items()}
    if sum(left.values()) > sum(count_true(bits) for bits in free.values()):  # nothing else is free
        free = {name: ~bits for name, bits in stay.items()}
    come = left if share is None else share(one, stay, free)
    return {name: bits | best(one.growth[name], among=free[name], count=come[name]) for name, bits in stay.items()}


# --- which stay ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weakest:
    """Of each layer the fraction with the lowest scores goes, no more than the layer has free places."""

    fraction: Fraction

    def __call__(self, one: Exchange) -> Bits:
        moved = self.moved(one)
        return {name: self._stay(bits, one.scores[name], moved[name]) for name, bits in one.alive.items()}

    def moved(self, one: Exchange) -> dict[str, int]:
        """How many go from each layer."""
        part, living = self.fraction(one.moment.step), {name: count_true(bits) for name, bits in one.alive.items()}
        return {n: min(math.floor(part * k + 1e-9), one.alive[n].numel() - k) for n, k in living.items()}

    def _stay(self, alive: Tensor, scores: Tensor, moved: int) -> Tensor:
        return best(scores, among=alive, count=count_true(alive) - moved) if moved else alive.clone()


@dataclass(frozen=True)
class Spared:
    """Of each layer the weakest fraction goes; of one that is nearly dense and about to grow, its sparsity at most."""

    fraction: Fraction
    below: float = 0.2

    def __call__(self, one: Exchange) -> Bits:
        part, mean = self.fraction(one.moment.step), means(one)
        fair = sum(mean.values()) / max(1, len(mean))
        stay = {}
        for name, bits in one.alive.items():
            living = count_true(bits)
            sparsity = 1 - living / max(1, bits.numel())
            gentle = sparsity < self.below and mean[name] > fair
            moved = math.floor((min(part, sparsity) if gentle else part) * living + 1e-9)
            stay[name] = best(one.scores[name], among=bits, count=living - moved)
        return stay


@dataclass(frozen=True)
class Flipped:
    """Whatever has crossed zero goes: each weight has a sign for life, the living their own, the dead a drawn one."""

    def __call__(self, one: Exchange) -> Bits:
        return {name: bits & (one.scores[name] * self._sign(one, name) >= 0) for name, bits in one.alive.items()}

    def _sign(self, one: Exchange, name: str) -> Tensor:
        memory, key = one.moment.memory, f"sign.{name}"
        if key not in memory:
            memory[key] = self._drawn(one, name)
        found = memory[key]
        assert isinstance(found, Tensor)
        return found

    def _drawn(self, one: Exchange, name: str) -> Tensor:
        values, generator = one.scores[name], one.moment.generator
        where = generator.device if generator is not None else torch.device("cpu")
        coins = torch.randint(2, values.shape, generator=generator, device=where, dtype=torch.int8).to(values.device)
        coins = reduced({name: 2 * coins - 1}, from_first_rank)[name]  # the same on all ranks
        return torch.where(one.alive[name] & (values != 0), values.sign().to(torch.int8), coins)


@dataclass(frozen=True)
class Adaptive:
    """Whatever scores less than one threshold for all layers goes; it doubles or halves where too few or many went."""

    fraction: float
    start: float
    tolerance: float

    def __call__(self, one: Exchange) -> Bits:
        memory = one.moment.memory
        threshold = float(memory.get("threshold", self.start))
        memory["threshold"] = threshold
        stay = {}
        for name, bits in one.alive.items():
            above = bits & at_least(one.scores[name], threshold, name=name)
            least = min(1, count_true(bits))  # no layer loses its last
            stay[name] = above if count_true(above) >= least else best(one.scores[name], among=bits, count=least)
        wanted = self.fraction * sum(count_true(bits) for bits in one.alive.values())
        went = sum(one.left(stay).values())
        if went > (1 + self.tolerance) * wanted:
            memory["threshold"] = threshold / 2
        elif went < (1 - self.tolerance) * wanted:
            memory["threshold"] = threshold * 2
        return stay


# --- how many come ------------------------------------------------------------------------------------------------


def means(one: Exchange) -> dict[str, float]:
    """The mean growth score of each layer's living units; 0 where none lives."""
    return {
        name: float(one.growth[name][bits].double().mean()) if bits.any() else 0.0 for name, bits in one.alive.items()
    }


@dataclass(frozen=True)
class ByGrowth:
    """In proportion to the mean growth score of the living, no layer more than `fill` of its free places."""

    fill: float

    def __call__(self, one: Exchange, stay: Bits, free: Bits) -> Mapping[str, int]:
        total, room = sum(one.left(stay).values()), {name: count_true(bits) for name, bits in free.items()}
        capped = {name: math.floor(self.fill * places) for name, places in room.items()}
        return apportioned(total, means(one), capped if sum(capped.values()) >= total else room)


@dataclass(frozen=True)
class BySurvivors:
    """In proportion to how many stayed."""

    def __call__(self, one: Exchange, stay: Bits, free: Bits) -> Mapping[str, int]:
        weights = {name: float(count_true(bits)) for name, bits in stay.items()}
        return apportioned(sum(one.left(stay).values()), weights, {n: count_true(bits) for n, bits in free.items()})


@dataclass(frozen=True)
class Anywhere:
    """One ranking by the growth score over all free places."""

    def __call__(self, one: Exchange, stay: Bits, free: Bits) -> Mapping[str, int]:
        open_ = {name: torch.where(bits, one.growth[name], _worst(one.growth[name])) for name, bits in free.items()}
        return {name: count_true(bits) for name, bits in topk_mask(open_, sum(one.left(stay).values())).items()}
