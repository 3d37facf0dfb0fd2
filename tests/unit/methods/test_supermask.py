"""Supermasks: a Bernoulli mask on signed constants, rescaled, learned straight through by a trainer of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, methods


def test_one_step_by_hand() -> None:
    model, values = mlp(), weights(mlp())
    Pruner(model, methods.supermask(rate=7.0), generator=torch.Generator().manual_seed(1))
    found, masks = gates(model), {name: gate.mask.clone() for name, gate in gates(model).items()}
    used = dict(values)
    for name, mask in masks.items():
        sigma = values[name].std(correction=0)
        used[name] = values[name].sign() * sigma * mask * (mask.numel() / int(mask.sum()))
    used = {name: value.requires_grad_() for name, value in used.items()}
    loss = F.cross_entropy(functional_call(mlp(), used, batch(0)[0]), batch(0)[1])
    grads = dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, 0)
    for name, gate in found.items():
        scale = values[name].sign() * values[name].std(correction=0) * (masks[name].numel() / int(masks[name].sum()))
        # sigmoid′(0) = ¼; the rate is the trainer's, not the weights'
        torch.testing.assert_close(gate.scores.detach(), -7.0 * grads[name] * scale * 0.25)
        assert torch.equal(model.get_parameter(name), values[name]) and not torch.equal(gate.mask, masks[name])
    torch.testing.assert_close(model[0].bias.detach(), values["0.bias"] - 0.1 * grads["0.bias"])


@pytest.mark.parametrize("start", [-1.5, 0.0, 2.0])
def test_a_weight_is_used_as_often_as_its_score_says(start: float) -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False))
    pruner = Pruner(model, methods.supermask(start=start), generator=torch.Generator().manual_seed(1))
    (gate,) = gates(model).values()
    chance, shares = 1 / (1 + torch.exp(torch.tensor(-start))).item(), []
    for _ in range(20):
        shares.append(pruner.masks.density)
        gate.after_step(model[0].weight.detach(), 0.0)
    assert abs(sum(shares) / 20 - chance) < 5 * (chance * (1 - chance) / 200_000) ** 0.5
    assert len(set(shares)) > 10
    with torch.no_grad():
        used = gate(model[0].weight)  # the sum of what is used is that of all, whatever the draw
    assert abs(float(used.abs().sum() / (model[0].weight.detach().std(correction=0) * 10_000)) - 1) < 1e-4


def test_weights_keep_their_bits_and_the_folded_network_is_the_evaluated_one() -> None:
    model, start = mlp(), weights(mlp())
    pruner, optimizer = Pruner(model, methods.supermask(rate=1.0), generator=torch.Generator()), sgd(model)
    for number in range(8):
        train(model, optimizer, number)
        assert all(torch.equal(model.get_parameter(name), start[name]) for name in gates(model))
    before = model.eval()(batch(0)[0])
    masks = pruner.finish()
    torch.testing.assert_close(model(batch(0)[0]), before)
    for name, mask in masks.items():
        values = model.get_parameter(name).detach()
        assert len(values[mask].abs().unique()) == 1 and torch.equal(values.sign(), start[name].sign() * mask)


def test_what_cannot_work_is_refused() -> None:
    for options in ({"rate": 0.0}, {"start": float("inf")}):
        with pytest.raises(SecateurError, match="supermasks need"):
            methods.supermask(**options)
