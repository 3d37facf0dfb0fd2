"""Selection within a budget: the longest prefix of the ranking that can be paid for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur._base.errors import ScoreError, SecateurError
from secateur.selection import _radix, best_prefix, topk_mask


def reference(scores: Mapping[str, Tensor], cost: Mapping[str, float | Tensor], budget: float) -> dict[str, Tensor]:
    """The definition, in numpy: sort stably, add the costs up, stop at the first that does not fit."""
    flat = np.concatenate([tensor.double().numpy().reshape(-1) for tensor in scores.values()])
    prices = [torch.as_tensor(cost[name]).double().expand(scores[name].shape) for name in scores]
    each = np.concatenate([price.numpy().reshape(-1) for price in prices])
    order = np.argsort(-flat, kind="stable")
    fits = int((np.cumsum(each[order]) <= budget).sum())
    bits = np.zeros(flat.size, dtype=bool)
    bits[order[:fits]] = True
    split = np.split(bits, np.cumsum([tensor.numel() for tensor in scores.values()])[:-1])
    return {name: torch.from_numpy(b).reshape(scores[name].shape) for name, b in zip(scores, split, strict=True)}


@st.composite
def priced_scores(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, float | Tensor], float]:
    scores: dict[str, Tensor] = {}
    cost: dict[str, float | Tensor] = {}
    for index in range(draw(st.integers(1, 4))):
        shape = draw(st.sampled_from([(), (6,), (3, 5), (0,), (30,)]))
        size = math.prod(shape)
        dtype = draw(st.sampled_from([torch.float32, torch.float64]))
        values = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
        scores[f"layer{index}"] = torch.tensor(values, dtype=dtype).reshape(shape) / 8
        if draw(st.booleans()):
            prices = draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
            cost[f"layer{index}"] = torch.tensor(prices).reshape(shape)
        else:
            cost[f"layer{index}"] = draw(st.integers(0, 5))
    return scores, cost, draw(st.integers(0, 250))


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(priced=priced_scores(), part=st.sampled_from([7, 1 << 22]))
def test_it_is_the_longest_prefix_of_the_stable_sort(
    backend: str,
    priced: tuple[dict[str, Tensor], dict[str, float | Tensor], float],
    part: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_radix, "PART", part)
    scores, cost, budget = priced
    found, wanted = best_prefix(scores, cost, budget), reference(scores, cost, budget)
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_equal_prices_make_it_a_count(backend: str, generator: torch.Generator) -> None:
    scores = {"a": torch.randn(50, generator=generator), "b": torch.randn(7, 5, generator=generator)}
    found, wanted = best_prefix(scores, {"a": 3, "b": 3.0}, 3 * 21 + 2), topk_mask(scores, 21)
    assert all(torch.equal(found[name], wanted[name]) for name in scores)


def test_nothing_is_tried_below_the_first_that_does_not_fit(backend: str) -> None:
    scores = {"dear": torch.tensor([3.0, 2.0]), "cheap": torch.tensor([1.0]), "free": torch.tensor([2.0, 0.5])}
    masks = best_prefix(scores, {"dear": 10, "cheap": 1, "free": 0}, 15)
    assert masks["dear"].tolist() == [True, False]
    assert masks["cheap"].tolist() == [False]
    assert masks["free"].tolist() == [False, False]  # its 2.0 ties with the one that did not fit, and comes later


@pytest.mark.parametrize(("budget", "kept"), [(0, 0), (0.5, 1), (1.5, 3), (2, 4), (math.inf, 4)])
def test_budget_is_spent_to_the_last_bit(backend: str, budget: float, kept: int) -> None:
    masks = best_prefix({"w": torch.tensor([4.0, 1.0, 3.0, 3.0])}, {"w": 0.5}, budget)
    assert int(masks["w"].sum()) == kept


def test_everything_is_kept_where_it_costs_nothing(backend: str) -> None:
    assert best_prefix({"w": torch.tensor([-1.0, 0.0])}, {"w": 0}, 0)["w"].all()


@pytest.mark.parametrize(
    ("cost", "sentence"),
    [
        ({}, "`cost` must have an entry for every tensor, got none for 'fc1'."),
        ({"fc1": 1.0, "fc": 1.0}, "`cost` must name score tensors, got 'fc'. Did you mean 'fc1'?"),
        ({"fc1": -1.0}, "`cost['fc1']` must be finite and at least 0, got -1.0. Give an entry that costs nothing"),
        ({"fc1": torch.tensor([1.0, math.nan])}, "`cost['fc1']` must be finite and at least 0, got nan."),
        ({"fc1": torch.ones(3)}, "`cost['fc1']` must be a number or have the scores' shape (2,), got shape (3,)."),
    ],
)
def test_costs_that_make_no_sense(cost: dict[str, float | Tensor], sentence: str) -> None:
    with pytest.raises(ScoreError) as error:
        best_prefix({"fc1": torch.zeros(2)}, cost, 1.0)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("budget", [-1.0, math.nan])
def test_a_budget_that_makes_no_sense(budget: float) -> None:
    with pytest.raises(SecateurError) as error:
        best_prefix({"w": torch.zeros(2)}, {"w": 1.0}, budget)
    assert str(error.value) == f"`budget` must be at least 0, got {budget}. It is in the unit of `cost`."


def test_scores_that_are_not_finite_are_named(backend: str) -> None:
    with pytest.raises(ScoreError, match=r"`scores\['w'\]` must be finite to be ranked, got 1 NaN"):
        best_prefix({"w": torch.tensor([1.0, math.nan])}, {"w": 1.0}, 1.0)
