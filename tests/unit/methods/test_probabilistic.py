"""Probabilistic pruning against the law it draws by."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from secateur import prune
from secateur.methods import magnitude, probabilistic

VALUES = (0.5, -1.0, 2.0, 3.5)


def _layer(values: tuple[float, ...] = VALUES, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(len(values), 1, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
    return layer


def _kept(density: float, seed: int, dtype: torch.dtype = torch.float32) -> tuple[int, ...]:
    drawn = torch.Generator().manual_seed(seed)
    mask = prune(_layer(dtype=dtype), probabilistic(density), generator=drawn)["weight"]
    return tuple(mask[0].nonzero().flatten().tolist())


def _chance(chosen: tuple[int, ...]) -> float:
    """Of a set, by adding up the orders in which it may have been drawn."""
    sizes, total = [abs(value) for value in VALUES], 0.0
    for order in itertools.permutations(chosen):
        left, chance = sum(sizes), 1.0
        for place in order:
            chance *= sizes[place] / left
            left -= sizes[place]
        total += chance
    return total


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sets_are_drawn_in_proportion_to_magnitudes_without_return(count: int) -> None:
    draws = 1500
    found = [_kept(count / 4, seed) for seed in range(draws)]
    sets = list(itertools.combinations(range(4), count))
    assert sum(map(_chance, sets)) == pytest.approx(1)
    for chosen in sets:
        p = _chance(chosen)
        assert abs(found.count(chosen) / draws - p) < 4 * math.sqrt(p * (1 - p) / draws), chosen


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_draw_alike(dtype: torch.dtype) -> None:
    assert [_kept(0.5, seed, dtype) for seed in range(20)] == [_kept(0.5, seed) for seed in range(20)]


def test_zeros_go_first_and_less_stays_of_the_whole_than_by_magnitude() -> None:
    model = nn.Linear(60, 40, bias=False)
    with torch.no_grad():
        model.weight[:20] = 0
    again = nn.Linear(60, 40, bias=False)
    again.load_state_dict(model.state_dict())
    mask = prune(model, probabilistic(0.5), generator=torch.Generator().manual_seed(0))["weight"]
    assert bool(mask[20:].all()) and not bool(mask[:20].any())  # half are zero: no other goes
    some = prune(again, probabilistic(0.25), generator=torch.Generator().manual_seed(0))["weight"]
    weight = model.weight.detach()
    best = prune(nn.Sequential(model), magnitude(0.25))["0.weight"]
    assert float(weight.abs()[some].sum()) < float(weight.abs()[best].sum())
