"""Learning rates against values worked out by hand; recipes that scale; names that suggest the nearest."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from secateur._base.errors import SecateurError
from secateur.lab.experiment import RECIPES, Adam, Constant, Ramp, Recipe, Sgd, Stairs, recipe, shortened


def test_stairs_fall_by_a_factor_at_each_boundary() -> None:
    rate = RECIPES["paper-mnist"].rate
    steps = [0, 24_999, 25_000, 49_999, 50_000, 75_000, 99_999]
    assert [rate(step) for step in steps] == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-4, 1e-4])


def test_the_papers_recipes() -> None:
    mnist, cifar, adam = (RECIPES[name] for name in ("paper-mnist", "paper-cifar", "paper-adam"))
    assert (mnist.steps, mnist.batch, mnist.augment) == (100_000, 100, False)
    assert (cifar.batch, cifar.augment, cifar.rate) == (128, True, Stairs(0.1, 30_000))
    assert mnist.optimizer == cifar.optimizer == Sgd(momentum=0.9, weight_decay=5e-4)
    assert adam.optimizer == Adam(weight_decay=0.0) and adam.rate(99_999) == 1e-3


def test_ramp_rises_to_its_peak_and_ends_near_zero() -> None:
    rate = Ramp(peak=0.4, steps=110, warmup=10)
    assert rate(0) == pytest.approx(0.04) and rate(9) == pytest.approx(0.4)
    assert rate(10) == pytest.approx(0.4) and rate(60) == pytest.approx(0.2)
    assert rate(109) == pytest.approx(0.2 * (1 + math.cos(math.pi * 0.99)))
    assert rate(110) == pytest.approx(0, abs=1e-12) and rate(500) == pytest.approx(0, abs=1e-12)
    assert Ramp(peak=0.4, steps=100)(0) == 0.4  # no warm-up


@pytest.mark.parametrize("name", RECIPES)
def test_rates_are_positive_throughout_and_names_match(name: str) -> None:
    known = recipe(name)
    assert known.name == name
    assert all(known.rate(step) > 0 for step in range(0, known.steps, max(1, known.steps // 500)))


def test_shortening_scales_the_schedule() -> None:
    short = shortened(RECIPES["short"], 810)
    factor = 810 / RECIPES["short"].steps
    assert isinstance(short.rate, Ramp) and short.rate.steps == short.steps == 810
    assert short.rate(405) == pytest.approx(RECIPES["short"].rate(round(405 / factor)), rel=0.02)
    assert shortened(RECIPES["paper-adam"], 10).rate == Constant(1e-3)
    assert shortened(RECIPES["short"], RECIPES["short"].steps) == RECIPES["short"]
    with pytest.raises(SecateurError, match="`steps` must be at least 1, got 0"):
        shortened(RECIPES["short"], 0)


def test_refusals() -> None:
    with pytest.raises(SecateurError, match=r"`recipe` must be one of demo, short, .*Did you mean 'short'\?"):
        recipe("shrt")
    for field, value in (("steps", 0), ("batch", 0), ("evaluate_every", -1)):
        with pytest.raises(SecateurError, match=rf"`{field}` must be at least \d, got {value}\."):
            replace(Recipe(1, Constant(0.1)), **{field: value})
