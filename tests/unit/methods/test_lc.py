"""Learning-compression: the augmented Lagrangian written out, the nearest sparse copy, and the way the two meet."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from online_cases import batch, best, mlp, sgd
from online_cases import step as train
from secateur import Pruner, SecateurError, methods
from secateur.gates import compressed

NAMES = ["0.weight", "2.weight"]


def _top(values: dict[str, Tensor], density: float) -> dict[str, Tensor]:
    """The largest of all tensors together, by plain sorting."""
    flat = torch.cat([values[name].abs().flatten() for name in NAMES])
    kept = best(flat, torch.ones_like(flat, dtype=torch.bool), math.floor(density * len(flat) + 0.5))
    parts = kept.split([values[name].numel() for name in NAMES])
    return {name: part.reshape(values[name].shape) for name, part in zip(NAMES, parts, strict=True)}


@pytest.mark.parametrize("multipliers", [True, False])
def test_training_follows_the_augmented_lagrangian(multipliers: bool) -> None:
    model, reference, mu0, growth = mlp(), mlp(), 0.05, 1.5
    method = methods.lc(0.3, until=9, begin=2, every=3, mu=mu0, growth=growth, multipliers=multipliers)
    pruner, optimizer, twin = Pruner(model, method), sgd(model), sgd(reference)
    theta: dict[str, Tensor] = {}
    lam = {name: torch.zeros_like(reference.get_parameter(name)) for name in NAMES}
    mu = 0.0
    for t in range(1, 9):
        train(model, optimizer, t)
        twin.zero_grad()
        price = sum(mu / 2 * (reference.get_parameter(n) - theta[n] - lam[n] / mu).square().sum() for n in theta)
        (F.cross_entropy(reference(batch(t)[0]), batch(t)[1]) + price).backward()
        twin.step()
        if t in (2, 5, 8):
            w = {name: reference.get_parameter(name).detach().clone() for name in NAMES}
            target = {name: w[name] - (lam[name] / mu if mu else 0) for name in NAMES}
            kept = _top(target, 0.3)
            theta = {name: target[name] * kept[name] for name in NAMES}
            if multipliers:
                lam = {name: lam[name] - mu * (w[name] - theta[name]) for name in NAMES}
            mu = mu * growth if mu else mu0
            assert all(torch.equal(pruner.masks[name], kept[name]) for name in NAMES), f"step {t}"
        if t < 8:
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(parameter, reference.get_parameter(name))
    masks = pruner.finish()
    for name in NAMES:  # the answer is θ, not w
        torch.testing.assert_close(model.get_parameter(name), theta[name])
        assert torch.equal(model.get_parameter(name) != 0, masks[name])


def test_the_first_compression_is_magnitude_pruning_and_the_copy_is_the_nearest() -> None:
    weight = torch.nn.Parameter(torch.tensor([[0.3, -1.0], [0.7, 0.1]], dtype=torch.float64))
    gate = compressed(mu=0.1, growth=1.1, multipliers=True)("w", weight)
    worth = gate.worth(weight.detach())
    assert torch.equal(worth, weight.detach().abs())
    mask = torch.tensor([[False, True], [True, False]])
    gate.admit(mask)
    distances = {}
    for kept in itertools.combinations(range(4), 2):  # every copy with two entries
        copy = torch.zeros(4, dtype=torch.float64)
        copy[list(kept)] = weight.detach().flatten()[list(kept)]
        distances[kept] = float((weight.detach().flatten() - copy).norm())
    assert float((weight.detach() - gate.theta).norm()) == pytest.approx(min(distances.values()))


def test_weight_and_copy_meet_as_mu_grows_and_eval_mode_computes_with_the_copy() -> None:
    model = mlp()
    pruner = Pruner(model, methods.lc(0.3, until=400, begin=20, every=10, mu=0.02, growth=1.15))
    optimizer, gaps = sgd(model), []
    for t in range(1, 400):
        train(model, optimizer, t % 8)
        gate = model[0].get_submodule("weight_gate") if hasattr(model[0], "weight_gate") else None
        if gate is not None and t % 40 == 29:
            gaps.append(float((model[0].weight - gate.theta).detach().norm() / gate.theta.norm()))
            inputs = batch(0)[0]
            with_copy = F.linear(inputs, gate.theta, model[0].bias)
            torch.testing.assert_close(model.eval()[0](inputs), with_copy)
            model.train()
    assert gaps[-1] < 0.05 < gaps[0]
    assert pruner.finish().density == pytest.approx(0.3, abs=2e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SecateurError, match="compressed needs mu > 0 and growth >= 1, got mu=0"):
        methods.lc(0.5, until=9, mu=0)
    with pytest.raises(SecateurError, match="`begin` must be a step from 0 to before until=9, got 9"):
        methods.lc(0.5, until=9, begin=9)
    with pytest.raises(SecateurError, match=r"growth=0\.5"):
        methods.lc(0.5, until=9, growth=0.5)
