"""Whole inputs: contributions from second moments, greedy and LASSO choices, group removal; all against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import ScoreError, SecateurError, gather, prunable
from secateur.measures import gram, input_variance
from secateur.repairs import (
    channels_of,
    contributions,
    greedy_columns,
    group_removal,
    lasso_columns,
    support_error,
)

LAYERS = {
    "linear": (nn.Linear(6, 4), (7, 6)),
    "convolution": (nn.Conv2d(5, 4, 3, padding=1, stride=2), (3, 5, 6, 6)),
    "grouped": (nn.Conv2d(6, 4, 2, groups=2), (3, 6, 4, 4)),
}


def second_moments(layer: nn.Module, x: Tensor) -> Tensor:
    model = nn.Sequential(layer)
    return gather(model, [x], [gram()], params=prunable(model))["gram"]["0.weight"]


@pytest.mark.parametrize("kind", LAYERS)
def test_contributions_are_inner_products_of_what_each_input_adds(kind: str) -> None:
    layer, shape = LAYERS[kind]
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    weight = layer.weight.detach()
    assert isinstance(weight, Tensor)
    channels = channels_of(weight, weight.flatten(1))
    parts = []
    for j in range(channels):
        alone = torch.zeros_like(weight)
        alone[:, j] = weight[:, j]
        out = torch.func.functional_call(layer, {"weight": alone, "bias": torch.zeros(4).double()}, (x,))
        parts.append(out.detach().flatten())
    want = torch.stack(parts) @ torch.stack(parts).T
    torch.testing.assert_close(contributions(weight.flatten(1), second_moments(layer, x), channels), want)


def test_greedy_removal_takes_at_each_step_what_brute_force_would() -> None:
    parts = torch.randn(7, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    order = greedy_columns(parts @ parts.T)
    gone: list[int] = []
    for step in range(7):
        cost = {j: float(parts[[*gone, j]].sum(0).square().sum()) for j in range(7) if j not in gone}
        best = min(cost, key=lambda j: cost[j])
        assert int(order[best]) == step
        gone.append(best)


@pytest.mark.parametrize("keep", [1, 3, 5, 8])
def test_lasso_satisfies_its_conditions_and_keeps_as_many_as_asked_for(keep: int) -> None:
    parts = torch.randn(8, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(keep))
    products = parts @ parts.T
    worth = lasso_columns(products, keep)
    chosen = worth > 1
    assert int(chosen.sum()) >= keep and (keep == 8 or int(chosen.sum()) == keep)
    # Conditions of a minimum: |⟨x̂_j, Y − Xβ⟩| = λ on the support, and at most λ elsewhere.
    beta = torch.zeros(8, dtype=torch.float64)
    beta[chosen] = (worth[chosen] - 1) / products.diagonal()[chosen].sqrt()
    slope = products.sum(1) - products @ beta
    if keep < 8:
        levels = slope[chosen].abs()
        assert float((levels.max() - levels.min()) / levels.max()) < 1e-5
        assert float(slope[~chosen].abs().max()) <= float(levels.max()) * (1 + 1e-5)


def test_of_two_equal_inputs_one_is_enough() -> None:
    parts = torch.randn(4, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = torch.cat([parts, parts[:1]])
    worth = lasso_columns(parts @ parts.T, 4)
    best = worth.argsort(descending=True)[:4].tolist()
    assert len({0, 4} & set(best)) >= 1
    rows, x = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, 40, dtype=torch.float64)
    x[4] = x[0]
    moments = x @ x.T + 1e-9 * torch.eye(5).double()
    first = int(group_removal(rows, moments, 5, keep=4).argmin())
    assert first in (0, 4)
    stays = torch.arange(5) != first
    assert support_error(rows, moments, stays) < 1e-6


@pytest.mark.parametrize("taps", [1, 2])
def test_groups_go_by_their_exact_cost_and_swaps_reach_what_no_single_exchange_improves(taps: int) -> None:
    drawn = torch.Generator().manual_seed(taps)
    rows = torch.randn(4, 6 * taps, dtype=torch.float64, generator=drawn)
    mixed = torch.randn(6 * taps, 6 * taps, dtype=torch.float64, generator=drawn)
    x = mixed @ torch.randn(6 * taps, 60, dtype=torch.float64, generator=drawn)
    moments = x @ x.T

    def error(groups: tuple[int, ...]) -> float:
        stays = torch.zeros(6, dtype=torch.bool).index_fill(0, torch.tensor(groups, dtype=torch.long), True)
        here = stays.repeat_interleave(taps).nonzero().flatten()
        target = (rows @ x).T
        fitted = torch.linalg.lstsq(x[here].T, target).solution
        found = 0.5 * float((target - x[here].T @ fitted).square().sum())
        assert abs(support_error(rows, moments, stays.repeat_interleave(taps)) - found) < 1e-6 * (1 + found)
        return found

    order = group_removal(rows, moments, 6, keep=1)
    left = tuple(range(6))
    for step in range(5):
        cost = {g: error(tuple(k for k in left if k != g)) for g in left}
        best = min(cost, key=lambda g: cost[g])
        assert int(order[best]) == step
        left = tuple(k for k in left if k != best)
    greedy = tuple(order.argsort(descending=True)[:3].tolist())
    swapped = tuple(group_removal(rows, moments, 6, keep=3, swaps=20).argsort(descending=True)[:3].tolist())
    assert error(swapped) <= error(greedy) * (1 + 1e-9)
    assert error(swapped) >= min(map(error, itertools.combinations(range(6), 3))) * (1 - 1e-9)


def test_variance_of_each_input_channel() -> None:
    layer, x = nn.Conv2d(3, 2, 1).double(), torch.randn(4, 3, 5, 5, dtype=torch.float64) + 3
    model = nn.Sequential(layer)
    found = gather(model, [x[:1], x[1:]], [input_variance()], params=prunable(model))["input_variance"]["0.weight"]
    torch.testing.assert_close(found, x.transpose(0, 1).flatten(1).var(1, correction=0))
    line = nn.Sequential(nn.Linear(3, 2).double())
    rows = torch.randn(9, 3, dtype=torch.float64)
    found = gather(line, [rows], [input_variance()], params=prunable(line))["input_variance"]["0.weight"]
    torch.testing.assert_close(found, rows.var(0, correction=0))
    wide = nn.Sequential(nn.Conv2d(4, 4, 2, groups=2).double())
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    read = (
        F.unfold(x, 2).reshape(2, 2, 2, 4, 4).permute(2, 0, 1, 3, 4).flatten(1)
    )  # (channel of a group, what it reads)
    found = gather(wide, [x], [input_variance()], params=prunable(wide))["input_variance"]["0.weight"]
    torch.testing.assert_close(found, read.var(1, correction=0))


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(SecateurError, match="not finite"):
        contributions(torch.ones(2, 2).double(), torch.full((2, 2), torch.nan).double(), 2)
    with pytest.raises(SecateurError, match=r"`keep` must be in 1 … 2, got 0"):
        group_removal(torch.ones(2, 2).double(), torch.eye(2).double(), 2, keep=0)
    assert issubclass(ScoreError, SecateurError)
