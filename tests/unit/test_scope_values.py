"""Scopes that compare with a value instead of counting; and counts of nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur import scope as scopes
from secateur._base.errors import SecateurError
from secateur.axes._scope import density_of
from secateur.axes.scope import Scope
from secateur.selection import kept_count


def _choose(scope: Scope, density: float | None, scores: dict[str, Tensor]) -> dict[str, Tensor]:
    return scope(scores, {name: tensor.shape for name, tensor in scores.items()}, density)


def test_threshold_keeps_what_reaches_it() -> None:
    scores = {"a": torch.tensor([[0.1, 0.5], [0.7, -1.0]])}
    assert _choose(scopes.threshold(0.5), 1.0, scores)["a"].tolist() == [[False, True], [True, False]]


# --- values instead of pools -----------------------------------------------------------------------------------------


def test_above_the_standard_deviation_a_gaussian_keeps_what_the_error_function_says() -> None:
    weights = {"small": torch.randn(400, 500) * 1e-3, "large": torch.randn(400, 500) * 10}
    keep = _choose(scopes.above(1.0), None, {name: w.abs() for name, w in weights.items()})
    for name, bits in keep.items():
        assert float(bits.float().mean()) == pytest.approx(1 - math.erf(math.sqrt(0.5)), abs=0.005)
        sigma = float(weights[name].double().square().mean().sqrt())
        assert torch.equal(bits, weights[name].abs() >= sigma)


@pytest.mark.parametrize("of", [scopes.rms, scopes.std, torch.median], ids=lambda f: f.__name__)
def test_a_statistic_sees_the_living_only(of) -> None:
    scores = {"a": torch.rand(20, 30, generator=torch.Generator().manual_seed(4))}
    alive = {"a": scores["a"] > 0.5}
    keep = scopes.above(0.8, of=of)(scores, {"a": torch.Size((20, 30))}, None, alive=alive)["a"]
    cut = 0.8 * float(of(scores["a"][alive["a"]]))
    assert torch.equal(keep, alive["a"] & (scores["a"] >= cut))
    dead = {"a": torch.zeros_like(alive["a"])}
    assert not scopes.above(0.8, of=of)(scores, {"a": torch.Size((20, 30))}, None, alive=dead)["a"].any()


def test_layers_that_no_quality_names_are_kept_whole() -> None:
    keep = _choose(scopes.above({"a": 100.0}), None, {"a": torch.rand(3, 4), "b": -torch.rand(2, 4)})
    assert not keep["a"].any() and keep["b"].all()


# --- none at all -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scope", [scopes.everywhere(), scopes.erk(), scopes.igq(), scopes.layerwise()], ids=lambda s: s.name
)
def test_a_density_that_keeps_none_is_refused_with_the_smallest_that_keeps_one(scope: Scope) -> None:
    scores = {"a": torch.rand(10, 20)}
    with pytest.raises(SecateurError, match=r"`density`=0.001 keeps none of 200 units.*keeps one is 0.0025"):
        _choose(scope, 1e-3, scores)
    assert int(_choose(scope, 0.0025, scores)["a"].sum()) == 1


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_the_smallest_density_keeps_so_many_and_a_smaller_one_fewer(size: int, fraction: float) -> None:
    keep = max(1, round(fraction * size))
    density = density_of(keep, size)
    assert 0 < density <= 1 and kept_count(density, size) >= keep
    assert keep == 1 or kept_count(density * 0.985, size) < keep


def test_a_floor_of_units_does_not_go_with_a_budget_of_costs() -> None:
    with pytest.raises(SecateurError, match=r"A floor counts units, and everywhere\(cost=…\) spends a budget"):
        scopes.floored(scopes.everywhere(cost={"a": 2.0}), at_least=1)
    with pytest.raises(SecateurError, match="A floor counts units"):
        scopes.floored(scopes.inverted(scopes.everywhere(cost={"a": 2.0})), at_least=1)
