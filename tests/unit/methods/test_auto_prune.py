"""AutoPrune: weights learn on training batches, their auxiliary numbers on held-out ones, however large a weight is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, mlp, sgd, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, methods

HELD = [batch(70), batch(71)]


def _through_the_masks(values: dict[str, Tensor], masks: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """∂L/∂(w ⊙ h) on a batch."""
    used = {n: (v * masks[n] if n in masks else v).clone().requires_grad_() for n, v in values.items()}
    loss = F.cross_entropy(functional_call(mlp(), used, batch(number)[0]), batch(number)[1])
    return dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))


@pytest.mark.parametrize("strength", [0.0, 0.02])
def test_steps_by_hand(strength: float) -> None:
    model = mlp()
    pruner = Pruner(model, methods.auto_prune(strength=strength, rate=0.08, surrogate=F.softplus), HELD)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.1), gates(model)
    values = weights(mlp())
    own = {name: torch.full_like(values[name], 0.1).requires_grad_() for name in found}
    by_hand = torch.optim.Adam(own.values(), lr=0.08)
    for number in range(4):
        masks = {name: m.detach() > 0 for name, m in own.items()}
        grads = _through_the_masks(values, masks, number)
        values = {name: v - 0.1 * grads[name] * masks.get(name, 1) for name, v in values.items()}
        grads = _through_the_masks(values, masks, 70 + number % 2)
        for name, m in own.items():
            m.grad = (grads[name] * values[name].sign() + strength) * torch.sigmoid(m.detach())
        by_hand.step()
        train(model, optimizer, number)
        for name, gate in found.items():
            torch.testing.assert_close(gate.m.detach(), own[name].detach())
            torch.testing.assert_close(model.get_parameter(name).detach(), values[name])
    masks = pruner.finish()
    for name, mask in masks.items():
        assert torch.equal(mask, own[name] > 0)
        assert torch.equal(model.get_parameter(name).detach(), model.get_parameter(name).detach() * mask)
    assert 0 < masks.density < 1


def test_the_forward_is_binary_and_what_is_cut_may_come_back() -> None:
    model = mlp()
    Pruner(model, methods.auto_prune(), HELD)
    values = weights(mlp())
    for name, gate in gates(model).items():
        with torch.no_grad():
            gate.m.copy_(torch.linspace(-1, 1, gate.m.numel()).reshape(gate.m.shape))
        gate.m.requires_grad_(True)
        used = gate(model.get_parameter(name))
        assert torch.equal(used.detach(), values[name] * (gate.m > 0))
        (slope,) = torch.autograd.grad(used.sum(), gate.m)  # of size ĥ′(m) alone: |w| is not in it
        torch.testing.assert_close(slope, values[name].sign() * torch.sigmoid(gate.m.detach()))
        assert bool((slope[gate.m <= 0] != 0).all())


def test_no_price_is_no_pressure_and_training_batches_move_no_number() -> None:
    model = mlp()
    Pruner(model, methods.auto_prune(strength=0.0), [(batch(0)[0] * 0, batch(0)[1])])
    optimizer = sgd(model)
    train(model, optimizer, 0)
    (first, _) = gates(model).values()  # the held-out inputs are 0: nothing reaches the first layer's weights
    assert torch.equal(first.m.detach(), torch.full_like(first.m, 0.1))


def test_what_cannot_work_is_refused() -> None:
    for held_out in (None, []):
        with pytest.raises(SecateurError, match="learns from examples that the weights are not trained on"):
            Pruner(mlp(), methods.auto_prune(), held_out)
    for options in ({"strength": -1.0}, {"rate": 0.0}, {"start": 0.0}):
        with pytest.raises(SecateurError, match="auxiliaries need"):
            methods.auto_prune(**options)
