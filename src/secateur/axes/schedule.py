"""When to prune, and how far: a schedule is a list of milestones, each an optimizer step and the density to reach.

Offline, `prune` walks the densities one after the other; online, a `Pruner` asks the schedule after every optimizer
step. One value class serves both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from secateur._base.errors import SecateurError
from secateur.selection import check_density


class Milestone(NamedTuple):
    """Something to do right after optimizer step number `step` (0 = before the first step).

    Attributes:
        step: how many optimizer steps have been taken.
        density: the fraction to keep, or None where the scope decides how many stay (`scope.threshold`).
    """

    step: int
    density: float | None


@dataclass(frozen=True)
class Schedule:
    """Milestones in the order of their steps.

    `schedule(step)` is the milestone at that optimizer step, or None where nothing is to be done. `schedule.densities`
    are the same targets in order, for pruning without training.

    >>> exponential(0.25, rounds=2).densities
    (0.5, 0.25)
    >>> steady(None, every=100, until=300)(200)
    Milestone(step=200, density=None)
    """

    name: str
    milestones: tuple[Milestone, ...] = field(repr=False)
    _by_step: dict[int, Milestone] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        steps = [milestone.step for milestone in self.milestones]
        if not steps:
            raise SecateurError("A schedule needs at least one (step, density) milestone.")
        if steps != sorted(set(steps)) or steps[0] < 0:
            raise SecateurError(f"Schedule steps must be non-negative and strictly increasing, got {steps[:8]}.")
        for milestone in self.milestones:
            _check(milestone.density)
        object.__setattr__(self, "_by_step", dict(zip(steps, self.milestones, strict=True)))

    def __call__(self, step: int) -> Milestone | None:
        return self._by_step.get(step)

    @property
    def densities(self) -> tuple[float | None, ...]:
        """The densities to reach, in order."""
        return tuple(milestone.density for milestone in self.milestones)

    @property
    def final(self) -> float | None:
        """The density at which the schedule ends; None where it emerges."""
        return self.milestones[-1].density


def _check(density: float | None) -> None:
    if density is not None:
        check_density(density)


def _spread(name: str, count: int, density_at: Callable[[float], float], begin: int, every: int) -> Schedule:
    """Milestones at begin, begin + every, …; `density_at` maps progress in (0, 1] to a density."""
    for label, value, least in (("rounds", count, 1), ("begin", begin, 0), ("every", every, 1)):
        if value < least:
            raise SecateurError(f"`{label}` must be at least {least}, got {value}.")
    points = (Milestone(begin + i * every, density_at((i + 1) / count)) for i in range(count))
    return Schedule(name, tuple(points))


def once(density: float | None, *, at: int = 0) -> Schedule:
    """Prune to `density` in one go, after optimizer step `at` (0: before training); None: as far as the scope says.

    >>> once(0.05), once(None)
    (Schedule(name='once(0.05)'), Schedule(name='once(None)'))
    """
    _check(density)
    return Schedule(f"once({_text(density)})", (Milestone(at, density),))


def _text(density: float | None) -> str:
    return "None" if density is None else f"{density:g}"


def exponential(density: float, *, rounds: int, begin: int = 0, every: int = 1) -> Schedule:
    """Keep a constant fraction per round: ρ_t = ρ^(t/T) for t = 1…T (`rounds`), ending exactly at ρ (`density`).

    Source: SynFlow (arXiv 2006.05467, Algorithm 1), FORCE (arXiv 2006.09081, eq. 9).
    """
    check_density(density)
    return _spread(f"exponential({density:g}, rounds={rounds})", rounds, lambda t: density**t, begin, every)


def linear(density: float, *, rounds: int, begin: int = 0, every: int = 1) -> Schedule:
    """Remove the same number of weights in each round: ρ_t = 1 − (1 − ρ) t/T."""
    check_density(density)

    def at(t: float) -> float:
        return density if t == 1 else 1 - (1 - density) * t

    return _spread(f"linear({density:g}, rounds={rounds})", rounds, at, begin, every)


def cubic(density: float, *, begin: int, end: int, every: int, initial: float = 1.0) -> Schedule:
    """Prune fast first, slowly later, while training: ρ_t = ρ_f + (ρ_i − ρ_f)(1 − (t − t₀)/(t₁ − t₀))³.

    t runs from t₀ (`begin`) to t₁ (`end`) in optimizer steps, in strides of `every`; ρ_i is `initial`, ρ_f `density`.
    The last milestone is exactly `end` and exactly `density`. Source: Zhu & Gupta, arXiv 1710.01878, eq. 1.

    >>> [round(d, 3) for d in cubic(0.1, begin=0, end=20, every=10).densities]
    [1.0, 0.213, 0.1]
    """
    check_density(density)
    check_density(initial, name="initial")
    if not (0 <= begin < end and every >= 1):
        raise SecateurError(
            f"cubic needs 0 <= begin < end and every >= 1, got begin={begin}, end={end}, every={every}."
        )
    steps = [*range(begin, end, every), end]

    def at(step: int) -> float:
        return density + (initial - density) * (1 - (step - begin) / (end - begin)) ** 3

    return Schedule(f"cubic({density:g}, {begin}..{end})", tuple(Milestone(step, at(step)) for step in steps))


def geometric(density: float, *, halvings: int = 5, begin: int = 0, every: int = 1) -> Schedule:
    """Halve the distance to the target sparsity each round, then land on it (SNIP-it).

    With κ = 1 − ρ the target sparsity: p_i = κ − (κ − ½)·½^i for i = 0…`halvings`, then κ. For κ = .98 and 5 halvings:
    .50 .74 .86 .92 .95 .965 .98. Steps that would not prune (ρ ≥ ½) are left out.
    Source: Verdenius et al., arXiv 2006.00896, §3.

    >>> [round(1 - d, 3) for d in geometric(0.02).densities]
    [0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98]
    """
    check_density(density)
    if halvings < 0:
        raise SecateurError(f"`halvings` must be at least 0, got {halvings}.")
    sparsity = 1 - density
    steps = [1 - (sparsity - (sparsity - 0.5) * 0.5**i) for i in range(halvings + 1)] if density < 0.5 else []
    targets = [*steps, density]
    points = (Milestone(begin + i * every, target) for i, target in enumerate(targets))
    return Schedule(f"geometric({density:g})", tuple(points))


def steady(density: float | None, *, every: int, until: int, begin: int = 0) -> Schedule:
    """Ask for the same density again and again.

    Milestones at begin, begin + every, … < `until`. With `density` None the scope decides each time how many stay.
    """
    _check(density)
    if every < 1 or until <= begin:
        raise SecateurError(f"steady needs every >= 1 and until > begin, got every={every}, until={until}.")
    points = (Milestone(step, density) for step in range(begin, until, every))
    return Schedule(f"steady({_text(density)})", tuple(points))


def exchanges(density: float | None, *, every: int, until: int, begin: int = 0) -> Schedule:
    """The clock of dynamic sparse training: choose before the first step, and exchange from step `begin` on.

    Milestones at 0, and at begin, begin + every, … < `until` (RigL: every=100, until=¾ of training, arXiv 1911.11134,
    §3).

    >>> [step for step, _ in exchanges(0.1, every=10, until=40, begin=15).milestones]
    [0, 15, 25, 35]
    """
    _check_repeats(every, begin, until)
    later = steady(density, every=every, until=until, begin=begin)
    return later if begin == 0 else replace(then(once(density), later, gap=0), name=later.name)


def repeated(density: float, *, every: int, until: int) -> Schedule:
    """Prune to one density before the first step, again and again, and for the last time at `until` (SFP).

    >>> [step for step, _ in repeated(0.7, every=10, until=25).milestones]
    [0, 10, 20, 25]
    """
    _check_repeats(every, 0, until)
    again = steady(density, every=every, until=until)
    return Schedule(f"repeated({density:g})", (*again.milestones, Milestone(until, density)))


def gradual(density: float, *, end: int, until: int, every: int, initial: float = 1.0, begin: int = 0) -> Schedule:
    """Prune along `cubic` from `begin` to `end`, and go on asking for the last density until `until`.

    From a dense network (`initial` 1) nothing is to be done at `begin`, and that milestone is left out.
    Source: GraNet, arXiv 2106.10404, eq. 1, which exchanges weights all the while.

    >>> [(step, round(1 - d, 4)) for step, d in gradual(0.1, end=20, until=41, every=10).milestones]
    [(10, 0.7875), (20, 0.9), (30, 0.9), (40, 0.9)]
    """
    if end > until:
        raise SecateurError(f"`until` must not come before `end`, got end={end} and until={until}.")
    _check_repeats(every, begin, until)
    curve = cubic(density, begin=begin, end=end, every=every, initial=initial).milestones
    first = 1 if initial == 1 else 0
    later = (Milestone(step, density) for step in range(end + every - (end - begin) % every, until, every))
    return Schedule(f"gradual({density:g}, {begin}..{end})", (*curve[first:], *later))


def _check_repeats(every: int, begin: int, until: int) -> None:
    if not 0 <= begin < until:
        raise SecateurError(
            f"`until` must come after `begin`, got begin={begin} and until={until}: it would end before it begins. "
            "Give a later `until`; three quarters of the steps of training are usual."
        )
    if not 1 <= every < until - begin:
        raise SecateurError(
            f"`every` must be at least 1 and shorter than the time it is repeated in, {until - begin} steps, got "
            f"every={every}: nothing would ever be exchanged. Give a smaller `every`, or a later `until`."
        )


def cyclic(low: float, high: float, *, period: int, cycles: int, begin: int = 0, every: int = 1) -> Schedule:
    """Swing the density between `high` and `low` on a cosine, `cycles` times, ending at `low`.

    ρ_t = ρ_lo + (ρ_hi − ρ_lo)(1 + cos 2πt/T)/2 with T = `period` steps; the last milestone is exactly ρ_lo, half a
    period after the last peak.
    """
    check_density(low, name="low")
    check_density(high, name="high")
    if low > high or period < 2 or cycles < 1 or every < 1:
        raise SecateurError(
            f"cyclic needs low <= high, period >= 2, cycles >= 1 and every >= 1, got low={low}, high={high}, "
            f"period={period}, cycles={cycles}, every={every}."
        )
    end = period * (cycles - 1) + period // 2

    def at(step: int) -> float:
        return low + (high - low) * (1 + math.cos(2 * math.pi * step / period)) / 2

    points = [Milestone(begin + step, at(step)) for step in range(0, end, every)]
    return Schedule(f"cyclic({low:g}, {high:g})", (*points, Milestone(begin + end, low)))


def then(first: Schedule, second: Schedule, *, gap: int = 1) -> Schedule:
    """Run `first`, then `second`, whose steps are counted from `gap` steps after the end of `first`."""
    offset = first.milestones[-1].step + gap
    later = tuple(Milestone(step + offset, density) for step, density in second.milestones)
    return Schedule(f"then({first.name}, {second.name})", first.milestones + later)
