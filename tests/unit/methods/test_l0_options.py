"""L0's options: inputs that begin more open, decay of what is there, and draws for each example."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gate_cases import gates
from online_cases import batch, mlp, weights
from secateur import Pruner, SecateurError, methods

LOG11 = math.log(11)


def test_the_gates_on_the_inputs_may_begin_more_open() -> None:
    model = nn.Sequential(nn.Linear(3000, 4000), nn.Linear(4000, 2))
    Pruner(model, methods.l0(inputs_open=0.8, open_at_start=0.4))
    first, second = (gate.log_alpha.detach() for gate in gates(model).values())
    assert abs(float(first.mean()) - math.log(4)) < 1e-3 and abs(float(second.mean()) - math.log(2 / 3)) < 1e-3
    convolutional = nn.Sequential(nn.Conv2d(1, 3000, 1), nn.Flatten(), nn.Linear(3000, 2))
    Pruner(convolutional, methods.l0(inputs_open=0.8, open_at_start=0.4))  # its gates stand on filters
    assert all(float(gate.log_alpha.mean().detach()) < 0 for gate in gates(convolutional).values())


def test_decay_is_as_much_as_there_is_of_a_weight() -> None:
    model = mlp()
    Pruner(model, methods.l0(strength=0.0, decay=0.3))
    optimizer, values = torch.optim.SGD(model.parameters(), lr=0.5), weights(mlp())
    before = {name: gate.log_alpha.detach().clone() for name, gate in gates(model).items()}
    optimizer.zero_grad()
    (model(batch(0)[0]) * 0).sum().backward()
    optimizer.step()
    for name, log_alpha in before.items():
        chance = 1 / (1 + torch.exp(-(log_alpha + 2 / 3 * LOG11)))
        torch.testing.assert_close(model.get_parameter(name).detach(), values[name] * (1 - 0.5 * 0.3 * chance))
        slope = 0.5 * 0.3 * chance * (1 - chance) * values[name].square().sum(0, keepdim=True)
        torch.testing.assert_close(gates(model)[name].log_alpha.detach(), log_alpha - 0.5 * slope)


@pytest.mark.parametrize("kind", ["linear", "sequence", "conv"])
def test_each_example_has_a_draw_of_its_own(kind: str) -> None:
    layer = (nn.Conv2d(1, 3, 1) if kind == "conv" else nn.Linear(1, 3)).double()
    model = nn.Sequential(layer)
    Pruner(model, methods.l0(per_example=True))
    (gate,) = gates(model).values()
    n = 40_000
    shape = {"linear": (n, 1), "sequence": (n, 2, 1), "conv": (n, 1, 2, 2)}[kind]
    with torch.no_grad():
        bias = layer.bias.reshape(3, 1, 1) if kind == "conv" else layer.bias
        z = (model(torch.ones(shape, dtype=torch.float64)) - bias) / model[0].weight.detach().flatten().reshape(
            (3, 1, 1) if kind == "conv" else (3,)
        )
        alpha = gate.log_alpha.detach().flatten()
    if kind == "sequence":  # positions of one example share it
        torch.testing.assert_close(z[:, 0], z[:, 1])
    elif kind == "conv":  # one draw for each filter
        torch.testing.assert_close(z[:, :, 0, 0], z[:, :, 1, 1])
        assert not torch.allclose(z[:, 0, 0, 0], z[:, 1, 0, 0])
    # P(z > 1/2) = σ(log α), by symmetry of the stretched sigmoid; P(z = 0) = 1 − σ(log α + β log 11)
    first = z.reshape(n, 3, -1)[:, 0, 0] if kind == "conv" else z.reshape(n, -1)[:, 0]
    for share, chance in (
        ((first > 0.5).double().mean(), torch.sigmoid(alpha[0])),
        ((first.abs() > 1e-9).double().mean(), torch.sigmoid(alpha[0] + 2 / 3 * LOG11)),
    ):
        assert abs(float(share - chance)) < 4.5 * float((chance * (1 - chance) / n) ** 0.5)


@pytest.mark.filterwarnings("ignore::secateur._base.errors.EmptyLayerWarning")
def test_draws_for_each_example_fold_as_the_others_do() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 4)).double()
    pruner = Pruner(model, methods.l0(per_example=True))
    with torch.no_grad():
        for gate in gates(model).values():
            gate.log_alpha.copy_(torch.linspace(-4, 4, gate.log_alpha.numel()).reshape(gate.log_alpha.shape))
    x = torch.randn(5, 1, 3, 3, dtype=torch.float64)
    before = model.eval()(x)
    masks = pruner.finish()
    torch.testing.assert_close(model(x), before)
    assert 0 < masks.density < 1


def test_what_cannot_work_is_refused() -> None:
    for options in ({"inputs_open": 0.0}, {"inputs_open": 1.0}, {"decay": -1.0}):
        with pytest.raises(SecateurError, match="0 < inputs_open < 1 and decay >= 0"):
            methods.l0(**options)
