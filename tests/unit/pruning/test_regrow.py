"""Exchange: as many go as come, the lowest by one score and the highest by another, in each layer by itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from online_cases import best
from secateur._base.errors import SecateurError
from secateur.axes import Moment, measured
from secateur.axes.regrow import constant, cosine, drop_and_grow

SIZES = {"a": (6, 7), "b": (4, 3), "c": (2, 2)}


def growth(grad: Tensor) -> Tensor:
    return grad.abs()


def _case(density: float) -> tuple[Moment, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    params = {name: torch.nn.Parameter(torch.randn(size)) for name, size in SIZES.items()}
    alive = {name: torch.rand(size) < density for name, size in SIZES.items()}
    alive["c"] = torch.ones(2, 2, dtype=torch.bool)
    scores = {name: p.detach().abs() for name, p in params.items()}
    return Moment(10, density, params, alive), alive, scores, {name: torch.randn(size) for name, size in SIZES.items()}


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("just_dropped", [True, False])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_counts_stay_and_the_right_ones_move(fraction: float, just_dropped: bool, density: float) -> None:
    moment, alive, scores, grown = _case(density)
    rule = drop_and_grow(measured(growth), constant(fraction), just_dropped=just_dropped)
    given = {name: bits.clone() for name, bits in alive.items()}
    found = rule.exchange(moment, alive, scores, grown)
    for name, bits in alive.items():
        assert torch.equal(bits, given[name])  # only read
        moved = min(math.floor(fraction * int(bits.sum()) + 1e-9), int((~bits).sum()))
        stay = bits & ~best(scores[name], bits, moved, smallest=True)
        free = ~stay if just_dropped else ~bits
        assert torch.equal(found[name], stay | best(grown[name], free, moved))
        assert int(found[name].sum()) == int(bits.sum())
    assert bool(found["c"].all())  # a dense layer has no room


def test_ties_and_scores_that_cannot_be_lower_are_still_counted_exactly() -> None:
    lowest = torch.finfo(torch.float32).min
    alive = {"w": torch.arange(12).reshape(3, 4) < 6}
    moment = Moment(1, 0.5, {"w": torch.nn.Parameter(torch.ones(3, 4))}, alive)
    rule = drop_and_grow(measured(growth), constant(0.5))
    for scores, grown in ((0.0, 0.0), (1.0, -5.0), (lowest, 1.0)):
        found = rule.exchange(moment, alive, {"w": torch.full((3, 4), scores)}, {"w": torch.full((3, 4), grown)})
        assert int(found["w"].sum()) == 6


def test_the_cosine_falls_from_its_start_to_zero_at_until() -> None:
    fraction = cosine(0.3, until=80)
    assert fraction(0) == 0.3 and fraction(80) == fraction(1000) == 0
    assert all(fraction(t) == pytest.approx(0.15 * (1 + math.cos(math.pi * t / 80))) for t in range(81))
    assert all(fraction(t) > fraction(t + 1) for t in range(80))
    assert constant(0.2)(0) == constant(0.2)(10**6) == 0.2


def test_rules_are_values_and_nonsense_is_refused() -> None:
    one = drop_and_grow(measured(growth), cosine(0.3, until=5))
    assert one == drop_and_grow(measured(growth), cosine(0.3, until=5)) != replace(one, just_dropped=False)
    for wrong in (-0.1, 1.0, 2.0):
        with pytest.raises(SecateurError, match=r"`fraction` must be in \[0, 1\)"):
            constant(wrong)
        with pytest.raises(SecateurError, match=r"`fraction` must be in \[0, 1\)"):
            cosine(wrong, until=3)
    with pytest.raises(SecateurError, match="`until` must be at least 1 step, got 0"):
        cosine(0.3, until=0)
