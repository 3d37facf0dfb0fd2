"""Forgetting: both stages and clarification against training with all of it written into the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from online_cases import batch, best, mlp, sgd
from online_cases import step as train
from secateur import Pruner, SecateurError, methods

EPSILON, THETA, C = 0.02, 0.15, 0.3


def _decay(weight: Tensor, below: float) -> Tensor:
    return EPSILON * sum((abs(w) for w in weight.flatten() if abs(w.item()) < below), weight.new_zeros(()))


def test_all_weights_are_forgotten_first_then_the_small_ones() -> None:
    model, reference = mlp(), mlp()
    method = methods.forgetting(1.0, until=6, selective=2, strength=EPSILON, below=THETA)
    pruner, optimizer, twin = Pruner(model, method), sgd(model), sgd(reference)
    for number in range(6):
        train(model, optimizer, number)
        twin.zero_grad()
        below = math.inf if number < 2 else THETA
        price = _decay(reference[0].weight, below) + _decay(reference[2].weight, below)
        (F.cross_entropy(reference(batch(number)[0]), batch(number)[1]) + price).backward()
        twin.step()
    pruner.finish()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name))


def test_clarification_is_the_price_of_undecided_hidden_units_per_example() -> None:
    model, reference = mlp(), mlp()
    method = methods.forgetting(0.4, until=4, strength=0.0, clarification=C, hidden="0.weight")
    pruner, optimizer, twin = Pruner(model, method), sgd(model), sgd(reference)
    for number in range(4):
        train(model, optimizer, number)
        twin.zero_grad()
        inputs, targets = batch(number)
        hidden = reference[0](inputs)
        h = torch.sigmoid(hidden)
        price = C * torch.minimum(h, 1 - h).sum(1).mean()
        (F.cross_entropy(reference[2](reference[1](hidden)), targets) + price).backward()
        twin.step()
    sizes = torch.cat([reference[layer].weight.abs().flatten() for layer in (0, 2)])
    kept = best(sizes, torch.ones_like(sizes, dtype=torch.bool), math.floor(0.4 * len(sizes) + 0.5))
    masks = pruner.masks
    assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), kept)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name) * masks.get(name, torch.ones(())))
    assert pruner.finish() == masks


def test_clarified_units_decide() -> None:
    def undecided(clarification: float) -> float:
        model = mlp()
        pruner = Pruner(model, methods.forgetting(1.0, until=60, strength=0.0, clarification=clarification))
        optimizer = sgd(model)
        for number in range(60):
            train(model, optimizer, number % 3)
        h = torch.sigmoid(model[0](batch(0)[0]))
        pruner.finish()
        return torch.minimum(h, 1 - h).mean().item()

    assert undecided(1.0) < 0.7 * undecided(0.0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SecateurError, match="`below` must be above 0, got 0"):
        methods.forgetting(0.5, until=3, below=0)
    with pytest.raises(SecateurError, match="`selective` must be a step from 0 to until=3, got 4"):
        methods.forgetting(0.5, until=3, selective=4)
    with pytest.raises(SecateurError, match="`clarification` must be at least 0 and finite, got -1"):
        methods.forgetting(0.5, until=3, clarification=-1)
