"""L1 by proximal steps: a plain soft threshold in the test's own loop, exact zeros, and no price after the cut."""

from __future__ import annotations

import math

import pytest
import torch

from online_cases import after_step, best, mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, methods, scope, structure

STRENGTH = 0.2


def test_training_is_a_soft_threshold_after_each_step_then_a_cut_then_plain() -> None:
    model, reference = mlp(), mlp()
    pruner = Pruner(model, methods.l1_penalty(0.3, until=6, strength=STRENGTH))
    optimizer, twin = sgd(model), sgd(reference)
    matrices = ["0.weight", "2.weight"]
    for number in range(6):
        train(model, optimizer, number)
        train(reference, twin, number)
        with torch.no_grad():
            for name in matrices:
                w = reference.get_parameter(name)
                w -= w.clamp(-0.1 * STRENGTH, 0.1 * STRENGTH)  # what lies within goes
    sizes = torch.cat([reference.get_parameter(name).abs().flatten() for name in matrices])
    kept = best(sizes, torch.ones_like(sizes, dtype=torch.bool), math.floor(0.3 * len(sizes) + 0.5))
    assert torch.equal(torch.cat([pruner.masks[name].flatten() for name in matrices]), kept)
    for name, parameter in model.named_parameters():
        mask = pruner.masks[name] if name in matrices else 1
        torch.testing.assert_close(parameter, reference.get_parameter(name) * mask)
    assert bool((sizes == 0).any()), "the price makes exact zeros before anything is cut"


def test_after_the_cut_survivors_pay_nothing() -> None:
    model = mlp()
    pruner = Pruner(model, methods.l1_penalty(0.5, until=2, strength=STRENGTH))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepped = after_step(model, optimizer)
    for number in range(4):
        train(model, optimizer, number)
        if number >= 2:
            for name, mask in pruner.masks.items():
                assert torch.equal(model.get_parameter(name), stepped[name] * mask), "only the mask acts"


def test_scope_and_structure_are_choices() -> None:
    model = mlp()
    method = methods.l1_penalty(0.5, until=1, scope=scope.layerwise(), structure=structure.filters())
    pruner = Pruner(model, method)
    train(model, sgd(model), 0)
    for mask in pruner.finish().values():
        rows = mask.any(1)
        assert torch.equal(mask, rows[:, None].expand_as(mask))
        assert int(rows.sum()) == math.floor(0.5 * len(mask) + 0.5)


def test_what_cannot_be_is_refused_and_nothing_is_changed() -> None:
    with pytest.raises(SecateurError, match="`strength` must be at least 0 and finite, got -1"):
        methods.l1_penalty(0.5, until=3, strength=-1)
    with pytest.raises(SecateurError, match="it never would"):
        methods.l1_penalty(0.5, until=0)
    model = mlp()
    before = weights(model)
    Pruner(model, methods.l1_penalty(0.5, until=3)).release()
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
