"""Slot machines: values that never change, the best score's or one by the softmax, and zeros among them."""

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


def test_the_best_slot_is_used_and_its_score_alone_learns_by_its_value() -> None:
    model, values = mlp(), weights(mlp())
    Pruner(model, methods.slot_machines(slots=4))
    found = gates(model)
    table, used = {}, dict(values)
    for name, gate in found.items():
        table[name] = torch.stack([values[name], *gate.others, torch.zeros_like(values[name])])
        assert table[name].shape[0] == 4 and abs(float(gate.others.std() / values[name].std()) - 1) < 0.3
        best = gate.scores.detach().argmax(0, keepdim=True)
        assert torch.equal(gate.choice.long(), best[0])
        used[name] = table[name].gather(0, best)[0]
    used = {name: value.requires_grad_() for name, value in used.items()}
    loss = F.cross_entropy(functional_call(mlp(), used, batch(0)[0]), batch(0)[1])
    grads = dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))
    mine = F.cross_entropy(model(batch(0)[0]), batch(0)[1])
    torch.testing.assert_close(mine, loss)
    mine.backward()
    for name, gate in found.items():
        pulled = F.one_hot(gate.scores.detach().argmax(0), 4).movedim(-1, 0)
        torch.testing.assert_close(gate.scores.grad, pulled * grads[name] * used[name])


@pytest.mark.parametrize("sampled", [False, True])
def test_values_never_change_and_zeros_are_cut(sampled: bool) -> None:
    model, start = mlp(), weights(mlp())
    pruner = Pruner(model, methods.slot_machines(slots=3, sampled=sampled), generator=torch.Generator())
    others = {name: gate.others.clone() for name, gate in gates(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    pruner.adopt(optimizer)
    for number in range(10):
        train(model, optimizer, number)
    choice = {name: gate.choice.clone() for name, gate in gates(model).items()}
    for name, gate in gates(model).items():
        assert torch.equal(gate.others, others[name]) and torch.equal(model.get_parameter(name), start[name])
        assert sampled or torch.equal(gate.choice.long(), gate.scores.detach().argmax(0))
    before = model.eval()(batch(0)[0])
    masks = pruner.finish()
    torch.testing.assert_close(model(batch(0)[0]), before)
    for name, mask in masks.items():
        assert torch.equal(mask, choice[name] != 2) and 0 < int(mask.sum()) < mask.numel()
        own = torch.where(choice[name] == 0, start[name], others[name][0])
        assert torch.equal(model.get_parameter(name).detach(), own * mask)


def test_one_slot_learns_nothing() -> None:
    model, start = mlp(), weights(mlp())
    pruner, optimizer = Pruner(model, methods.slot_machines(slots=1, zero=False)), sgd(model)
    pruner.adopt(optimizer)
    for number in range(3):
        train(model, optimizer, number)
    assert pruner.finish().density == 1
    assert all(torch.equal(model.get_parameter(name), start[name]) for name in ("0.weight", "2.weight"))


def test_draws_are_by_the_softmax_of_the_scores() -> None:
    model = nn.Sequential(nn.Linear(300, 200, bias=False))
    Pruner(model, methods.slot_machines(slots=3, sampled=True), generator=torch.Generator().manual_seed(2))
    (gate,) = gates(model).values()
    scores = torch.tensor([0.3, -1.0, 1.2])
    with torch.no_grad():
        gate.scores.copy_(scores[:, None, None].expand_as(gate.scores))
    gate.after_step(model[0].weight.detach(), 0.0)
    chances = torch.softmax(scores, 0)
    shares = torch.bincount(gate.choice.flatten().long(), minlength=3) / 60_000
    assert bool(((shares - chances).abs() < 4.5 * (chances * (1 - chances) / 60_000).sqrt()).all())


def test_what_cannot_work_is_refused() -> None:
    for options in ({"slots": 1}, {"slots": 0, "zero": False}, {"slots": 256}, {"scale": 0.0}):
        with pytest.raises(SecateurError, match="slot machines need 1 to 255 slots"):
            methods.slot_machines(**options)
