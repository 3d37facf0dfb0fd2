"""Schedules end exactly where they were asked to, and follow their formula on the way."""

from __future__ import annotations

import itertools
import math

import pytest

from secateur._base.errors import SecateurError
from secateur.axes.schedule import (
    Milestone,
    Schedule,
    cubic,
    cyclic,
    exponential,
    geometric,
    linear,
    once,
    steady,
    then,
)

FALLING = [
    once(0.03),
    exponential(0.03, rounds=7),
    linear(0.03, rounds=7),
    cubic(0.03, begin=5, end=47, every=10),
    geometric(0.03),
    then(exponential(0.5, rounds=2), once(0.03)),
]


@pytest.mark.parametrize("schedule", FALLING, ids=lambda s: s.name)
def test_pruning_schedules_fall_and_end_exactly(schedule: Schedule) -> None:
    densities = schedule.densities
    assert all(a >= b for a, b in itertools.pairwise(densities))
    assert densities[-1] == schedule.final == 0.03  # exactly, not approximately: κ depends on it


@pytest.mark.parametrize("schedule", FALLING, ids=lambda s: s.name)
def test_call_gives_the_milestones_and_nothing_between(schedule: Schedule) -> None:
    steps = dict(schedule.milestones)
    for step in range(schedule.milestones[-1][0] + 3):
        milestone = schedule(step)
        assert milestone == ((step, steps[step]) if step in steps else None)


def test_exponential_keeps_a_constant_fraction_per_round() -> None:
    densities = (1.0, *exponential(0.01, rounds=10).densities)
    ratios = [b / a for a, b in itertools.pairwise(densities)]
    assert ratios == pytest.approx([0.01**0.1] * 10)


def test_linear_removes_equal_amounts() -> None:
    densities = (1.0, *linear(0.1, rounds=9).densities)
    steps = [a - b for a, b in itertools.pairwise(densities)]
    assert steps == pytest.approx([0.1] * 9)


def test_cubic_follows_zhu_and_gupta_in_sparsity() -> None:
    schedule = cubic(0.2, begin=10, end=110, every=20, initial=0.9)
    for step, density in schedule.milestones:
        sparsity = 0.8 + (0.1 - 0.8) * (1 - (step - 10) / 100) ** 3  # their eq. 1, s_f = .8, s_i = .1
        assert 1 - density == pytest.approx(sparsity)
    assert schedule(10).density == pytest.approx(0.9)
    assert schedule.milestones[-1] == (110, 0.2)


def test_geometric_matches_snip_its_published_steps() -> None:
    steps = [1 - density for density in geometric(0.02, halvings=5).densities]
    assert steps == pytest.approx([0.50, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98])


def test_geometric_above_one_half_is_a_single_step() -> None:
    assert geometric(0.7).densities == (0.7,)


def test_steady_asks_for_one_density_until_the_end() -> None:
    schedule = steady(0.1, every=100, until=1000)
    assert [step for step, _ in schedule.milestones] == list(range(0, 1000, 100))
    assert set(schedule.densities) == {0.1}


def test_a_schedule_without_a_density_says_when_and_not_how_far() -> None:
    schedule = then(once(None, at=3), steady(None, every=10, until=30))
    assert schedule.milestones == ((3, None), (4, None), (14, None), (24, None))
    assert schedule(14) == Milestone(14, None) and schedule(15) is None  # told apart: something to do, nothing to do
    assert schedule.final is None


def test_cyclic_swings_between_its_bounds_and_ends_low() -> None:
    schedule = cyclic(0.1, 0.5, period=8, cycles=2)
    assert schedule(0).density == pytest.approx(0.5)
    assert schedule(4).density == pytest.approx(0.1)
    assert schedule(8).density == pytest.approx(0.5)
    assert schedule.milestones[-1] == (12, 0.1)


def test_then_shifts_the_second_part() -> None:
    schedule = then(once(0.5, at=3), exponential(0.25, rounds=2, every=5), gap=2)
    assert schedule.milestones == ((3, 0.5), (5, math.sqrt(0.25)), (10, 0.25))


def test_density_in_percent_is_refused_with_the_way_out() -> None:
    with pytest.raises(SecateurError) as error:
        once(95)
    assert str(error.value) == "`density` must be in (0, 1], got 95. Did you mean density=0.05 (keep 5 %)?"


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_densities_outside_the_range_are_refused(density: float) -> None:
    with pytest.raises(SecateurError, match=r"`density` must be in \(0, 1\]"):
        exponential(density, rounds=2)


def test_impossible_clocks_are_refused() -> None:
    with pytest.raises(SecateurError, match="`rounds` must be at least 1, got 0"):
        linear(0.5, rounds=0)
    with pytest.raises(SecateurError, match="0 <= begin < end"):
        cubic(0.5, begin=10, end=10, every=1)
    with pytest.raises(SecateurError, match="until > begin"):
        steady(0.5, every=10, until=0)
    with pytest.raises(SecateurError, match="strictly increasing"):
        Schedule("broken", (Milestone(5, 0.5), Milestone(5, 0.4)))
