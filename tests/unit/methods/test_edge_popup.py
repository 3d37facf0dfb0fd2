"""Edge-popup: weights keep their bits, layers their counts, and scores learn straight through the choice."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import MakeOptimizer, adam, batch, best, mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, methods

MATRICES = ("0.weight", "2.weight")


def fast(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.9, weight_decay=0.1)


def decaying(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)


@pytest.mark.parametrize("make", [fast, adam, decaying])
def test_weights_keep_their_bits_and_layers_their_counts(make: MakeOptimizer) -> None:
    model, start = mlp(), weights(mlp())
    pruner, optimizer = Pruner(model, methods.edge_popup(0.3, steps=5)), make(model)
    chosen = [pruner.masks]
    for number in range(5):
        train(model, optimizer, number)
        chosen.append(pruner.masks)
        for name in MATRICES:
            assert torch.equal(model.get_parameter(name), start[name])
            size = gates(model)[name].scores.detach().abs()
            every = torch.ones_like(size, dtype=torch.bool)
            assert torch.equal(chosen[-1][name], best(size, every, round(0.3 * size.numel())))
    assert not torch.equal(model[0].bias, start["0.bias"]) and chosen[0] != chosen[-1]
    masks = pruner.finish()
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 72, "2.weight": 18}
    for name in MATRICES:
        assert torch.equal(model.get_parameter(name), start[name] * masks[name])


def test_every_score_gets_the_gradient_of_its_weight() -> None:
    model = mlp()
    Pruner(model, methods.edge_popup(0.3, steps=5))
    found, values = gates(model), weights(mlp())
    used = {n: (v * found[n].mask if n in found else v).requires_grad_() for n, v in values.items()}
    loss = F.cross_entropy(functional_call(mlp(), used, batch(0)[0]), batch(0)[1])
    grads = dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    for name, gate in found.items():
        torch.testing.assert_close(gate.scores.grad, grads[name] * values[name] * gate.scores.detach().sign())
        assert model.get_parameter(name).grad is None


def test_one_score_that_grows_brings_one_edge_and_takes_one() -> None:
    model = nn.Sequential(nn.Linear(6, 5)).double()
    pruner = Pruner(model, methods.edge_popup(0.4, steps=2))
    (gate,), optimizer = gates(model).values(), torch.optim.SGD(model.parameters(), lr=0.0)
    before = pruner.masks["0.weight"]
    size = gate.scores.detach().abs()
    came = size.masked_fill(before, -1).argmax()
    went = size.masked_fill(~before, 9).argmin()
    with torch.no_grad():
        gate.scores.view(-1)[came] = -5.0
    model(torch.ones(1, 6, dtype=torch.float64)).sum().backward()
    optimizer.step()
    changed = (pruner.masks["0.weight"] != before).flatten().nonzero().flatten().tolist()
    assert sorted(changed) == sorted([int(came), int(went)])


def test_signed_constants_are_two_values_a_layer_and_fold() -> None:
    model, start = mlp(), weights(mlp())
    pruner, optimizer = Pruner(model, methods.edge_popup(0.5, steps=3, constant=True)), sgd(model)
    for number in range(3):
        train(model, optimizer, number)
    before = model.eval()(batch(0)[0])
    masks = pruner.finish()
    torch.testing.assert_close(model(batch(0)[0]), before)
    for name in MATRICES:
        sigma = start[name].std(correction=0)
        torch.testing.assert_close(model.get_parameter(name).detach(), start[name].sign() * sigma * masks[name])
