"""ESPN: a mask that shrinks by its price, a cut that is exact over all layers, and survivors that train on."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, best, mlp, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, methods


def test_mask_and_weights_learn_together_and_the_largest_of_all_layers_stay() -> None:
    model = mlp()
    pruner = Pruner(model, methods.espn(0.15, until=3, strength=0.01))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    values, m = weights(mlp()), {}
    m = {name: torch.ones_like(values[name]) for name in gates(model)}
    for number in range(3):
        leaves = {n: v.clone().requires_grad_() for n, v in values.items()}
        entries = {n: v.clone().requires_grad_() for n, v in m.items()}
        used = {n: v * entries[n] if n in entries else v for n, v in leaves.items()}
        loss = F.cross_entropy(functional_call(mlp(), used, batch(number)[0]), batch(number)[1])
        loss = loss + 0.01 * sum(entry.abs().sum() for entry in entries.values())
        loss.backward()
        values = {n: v.detach() - 0.2 * v.grad for n, v in leaves.items()}
        m = {n: v.detach() - 0.2 * v.grad for n, v in entries.items()}
        train(model, optimizer, number)
    flat = torch.cat([entry.abs().flatten() for entry in m.values()])
    kept = best(flat, torch.ones_like(flat, dtype=torch.bool), 45)
    masks = pruner.masks
    assert torch.equal(torch.cat([masks[name].flatten() for name in m]), kept)
    for name in m:
        torch.testing.assert_close(model.get_parameter(name).detach(), values[name] * m[name] * masks[name])
    before = weights(model)
    train(model, optimizer, 3)
    assert pruner.finish() == masks and masks.kept == 45
    for name, mask in masks.items():
        moved = model.get_parameter(name).detach() != before[name]
        assert bool(moved.any()) and not bool((moved & ~mask).any())


@pytest.mark.parametrize(("strength", "shrinks"), [(0.0, False), (1.0, True)])
def test_the_price_alone_shrinks_every_entry_alike(strength: float, shrinks: bool) -> None:
    model = mlp()
    Pruner(model, methods.espn(0.5, until=9, strength=strength))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        (model(batch(0)[0]) * 0).sum().backward()
        optimizer.step()
    for gate in gates(model).values():
        wanted = torch.full_like(gate.m, 1 - 5 * 0.01 * strength)
        torch.testing.assert_close(gate.m.detach(), wanted)
        assert bool((gate.m < 1).all()) == shrinks


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(SecateurError, match="`strength` must be at least 0 and finite, got -1"):
        methods.espn(0.5, until=3, strength=-1.0)
    with pytest.raises(SecateurError, match="`density` must be in"):
        methods.espn(5, until=3)
