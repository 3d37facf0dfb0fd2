"""Group brain damage: a masked convolution is a dense product of fewer columns; counts, rounds, and who is cut."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from online_cases import mlp, sgd
from online_cases import step as train
from secateur import Pruner, SecateurError, methods, structure


def _net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten()).double()


def test_columns_of_largest_norm_stay_and_the_convolution_is_the_product_of_those() -> None:
    model = _net()
    pruner = Pruner(model, methods.group_brain_damage(0.4, until=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    inputs = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model(inputs).square().mean().backward()
    norms = {name: model.get_parameter(name).detach().flatten(1).norm(dim=0) for name in ("0.weight", "2.weight")}
    optimizer.step()
    masks = pruner.finish()
    threshold = torch.cat(list(norms.values())).sort(descending=True).values[math.floor(0.4 * 72 + 0.5) - 1]
    for name, norm in norms.items():
        columns = masks[name].flatten(1)
        assert torch.equal(columns, (norm >= threshold).expand_as(columns))
    kept = masks["0.weight"].flatten(1)[0]
    patches = F.unfold(inputs, 3, padding=1)[:, kept]  # im2col without the columns that went
    thin = model[0].weight.flatten(1)[:, kept] @ patches + model[0].bias[:, None]
    torch.testing.assert_close(model[0](inputs).flatten(2), thin)


def test_a_column_that_pays_is_smaller() -> None:
    def smallest(strength: float) -> float:
        model = mlp()
        pruner = Pruner(model, methods.group_brain_damage(1.0, until=100, strength=strength))
        optimizer = sgd(model)
        for number in range(100):
            train(model, optimizer, number % 4)
        pruner.finish()
        return model[0].weight.norm(dim=0).min().item()

    assert smallest(0.05) < 0.2 * smallest(0.0)


def test_a_target_may_be_reached_in_rounds() -> None:
    model = mlp()
    pruner, optimizer, kept = Pruner(model, methods.group_brain_damage(0.25, until=9, rounds=3)), sgd(model), []
    history = []
    for number in range(9):
        train(model, optimizer, number)
        history.append(pruner.masks)
        kept.append(sum(int(mask.any(0).sum()) for mask in pruner.masks.values()))
    assert kept == [32, 32, 24, 24, 24, 16, 16, 16, 8]
    assert all(later & earlier == later for earlier, later in itertools.pairwise(history))


def test_no_layer_loses_all_its_columns() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight *= 1e-9
    pruner = Pruner(model, methods.group_brain_damage(0.1, until=1, strength=0.0))
    train(model, sgd(model), 0)
    assert [int(mask.any(0).sum()) >= 1 for mask in pruner.finish().values()] == [True, True]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SecateurError, match="`strength`"):
        methods.group_brain_damage(0.5, until=3, strength=-1)
    with pytest.raises(SecateurError, match="`rounds` must be at least 1, got 0"):
        methods.group_brain_damage(0.5, until=3, rounds=0)
    assert structure.lowered().split(torch.zeros(4, 3)).shape == (3, 4)
