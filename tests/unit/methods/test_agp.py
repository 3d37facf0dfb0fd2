"""AGP against equation 1: the curve of densities, layer by layer, of what was left."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from online_cases import after_step, best, mlp, sgd
from online_cases import step as train
from secateur import Pruner, methods, scope, structure


@pytest.mark.parametrize(
    ("begin", "end", "every", "initial"), [(0, 20, 5, 1.0), (3, 20, 4, 1.0), (2, 9, 1, 0.8), (1, 6, 10, 1.0)]
)
def test_each_layer_follows_the_curve_by_its_largest_weights(begin: int, end: int, every: int, initial: float) -> None:
    model, final = mlp(), 0.15
    pruner = Pruner(model, methods.agp(final, begin=begin, end=end, every=every, initial=initial))
    optimizer = sgd(model)
    stepped = after_step(model, optimizer)
    history = [pruner.masks]
    for t in range(1, end + 6):
        before = pruner.masks
        train(model, optimizer, t)
        history.append(pruner.masks)
        if not (t == end or (begin <= t < end and (t - begin) % every == 0)):
            assert pruner.masks == before, f"step {t} is no milestone"
            continue
        sparsity = 1 - final + (final - initial) * (1 - (t - begin) / (end - begin)) ** 3
        for name, mask in pruner.masks.items():
            count = math.floor((1 - sparsity) * mask.numel() + 0.5)
            assert torch.equal(mask, best(stepped[name].abs(), before[name], count)), f"{name} at step {t}"
    assert all(later & earlier == later for earlier, later in itertools.pairwise(history))
    assert all(masks == history[end] for masks in history[end:])
    assert all(int(mask.sum()) == math.floor(final * mask.numel() + 0.5) for mask in pruner.finish().values())


def test_an_initial_density_is_cut_to_before_the_first_step() -> None:
    model = mlp()
    pruner = Pruner(model, methods.agp(0.2, end=10, every=5, initial=0.6))
    assert all(int(mask.sum()) == math.floor(0.6 * mask.numel() + 0.5) for mask in pruner.masks.values())


def test_scope_and_structure_are_choices() -> None:
    method = methods.agp(0.5, end=4, every=2, scope=scope.everywhere(), structure=structure.filters())
    model = mlp()
    pruner, optimizer = Pruner(model, method), sgd(model)
    for t in range(1, 5):
        train(model, optimizer, t)
    masks = pruner.finish()
    rows = [row for mask in masks.values() for row in mask]
    assert all(bool(row.all()) or not bool(row.any()) for row in rows)
    assert sum(bool(row.all()) for row in rows) == math.floor(0.5 * len(rows) + 0.5)
