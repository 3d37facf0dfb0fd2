"""Sparse variational dropout against Monte Carlo, quadrature and the plain layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate_cases import gates
from online_cases import batch, mlp, same, sgd, weights
from online_cases import step as train
from secateur import Pruner, SecateurError, methods
from secateur._base.errors import EarlyFinishWarning


def _begun(layer: nn.Module, **options: object) -> tuple[nn.Module, Pruner]:
    model = nn.Sequential(layer).double()
    return model, Pruner(model, methods.variational_dropout(**{"steps": 10, "warm_up": 0, **options}))


LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 5, 5)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (3, 2, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_are_distributed_as_those_of_drawn_weights(kind: str) -> None:
    make, shape = LAYERS[kind]
    model, _ = _begun(make(), clip=False)
    layer, (gate,) = model[0], gates(model).values()
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        gate.log_sigma2.uniform_(-4, -1)
    many = 20_000 // len(x)
    with torch.no_grad():
        mine = torch.stack([model(x) for _ in range(many)])
    # By other means: the plain layer of the same kind, its weights drawn one by one.
    plain = make().double()
    plain.load_state_dict({name: p for name, p in layer.named_parameters() if "gate" not in name})
    mean, sigma = plain.weight.detach().clone(), gate.log_sigma2.detach().exp().sqrt()
    drawn = []
    with torch.no_grad():
        for _ in range(many):
            plain.weight.copy_(mean + sigma * torch.randn_like(mean))
            drawn.append(plain(x))
    other = torch.stack(drawn)
    error = (other.var(0) / many).sqrt()
    assert bool(((mine.mean(0) - other.mean(0)).abs() < 5.5 * 2**0.5 * error).all())
    assert bool(((mine.var(0) / other.var(0)).log().abs() < 5.5 * (4 / many) ** 0.5).all())


def test_without_noise_it_is_the_plain_layer_and_eval_is_the_masked_one() -> None:
    model, pruner = _begun(nn.Linear(6, 4), start=-60.0)
    layer, (gate,) = model[0], gates(model).values()
    x = torch.randn(7, 6, dtype=torch.float64)
    wanted = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(model(x), wanted, atol=1e-3, rtol=0)  # 1e-8 stays in the variance
    with torch.no_grad():
        gate.log_sigma2.copy_(layer.weight.square().log() + torch.linspace(-9, 9, 24).reshape(4, 6))
    masked = layer.weight.detach() * (torch.linspace(-9, 9, 24).reshape(4, 6) < 3)
    torch.testing.assert_close(model.eval()(x), F.linear(x, masked, layer.bias))
    before = model(x)
    with pytest.warns(EarlyFinishWarning):
        assert pruner.finish().kept == int((torch.linspace(-9, 9, 24) < 3).sum())
    assert torch.equal(layer.weight, masked) and torch.equal(model(x), before)


def _integral(alpha: float) -> float:
    """−KL up to a constant, by its definition: ½ log α − E log|1 + √α ε|, ε ~ N(0, 1), by quadrature."""
    nodes = np.linspace(-12, 12, 2_000_001)
    density = np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    inside = np.log(np.abs(1 + math.sqrt(alpha) * nodes) + 1e-300)
    return 0.5 * math.log(alpha) - float(np.sum(density * inside) * (nodes[1] - nodes[0]))


def test_the_price_is_the_divergence_from_the_log_uniform_prior() -> None:
    model, _ = _begun(nn.Linear(1, 1))
    (gate,) = gates(model).values()
    one = torch.ones(1, 1, dtype=torch.float64)
    far = _integral(math.exp(12.0))  # the constant: the divergence goes to 0 as α goes to ∞
    for log_alpha in (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0):
        with torch.no_grad():
            gate.log_sigma2.fill_(log_alpha)
        assert abs(gate.divergence(one).item() - (far - _integral(math.exp(log_alpha)))) < 0.0125
    values = torch.linspace(-8, 8, 99, dtype=torch.float64)
    with torch.no_grad():
        priced = torch.tensor([gate.divergence(one).item() for v in values if gate.log_sigma2.fill_(v) is not None])
    assert bool((priced > 0).all()) and bool((priced.diff() < 0).all()) and priced[-1] < 1e-3
    assert abs(float(priced[0] - priced[6]) - 0.5 * float(values[6] - values[0])) < 0.01  # ≈ −½ log α for small α


def test_threshold_3_is_a_dropout_rate_of_95_percent() -> None:
    rate = math.exp(3.0) / (1 + math.exp(3.0))
    assert 0.95 < rate < 0.953


def _by_hand(log_sigma2: Tensor, weight: Tensor) -> Tensor:
    """The paper's fit, written out in numpy's terms."""
    log_alpha = (log_sigma2 - torch.log(weight**2 + 1e-8)).clip(-8, 8)
    minus = 0.63576 / (1 + torch.exp(-(1.8732 + 1.48695 * log_alpha))) - 0.5 * torch.log1p(torch.exp(-log_alpha))
    return 0.63576 - minus


def test_the_price_and_its_slopes_are_those_of_autograd_over_many_parts_and_beyond_the_bounds() -> None:
    model, _ = _begun(nn.Linear(300, 150))
    ((gate,), layer) = gates(model).values(), model[0]  # type: ignore[index]
    torch.manual_seed(0)
    with torch.no_grad():
        gate.log_sigma2.copy_(torch.empty(150, 300).uniform_(-14, 6))
        layer.weight[0, :5] = 0
    found = gate.penalty(layer.weight)
    by_hand = _by_hand(gate.log_sigma2, layer.weight).sum() / 60_000
    torch.testing.assert_close(found, by_hand)
    both = [layer.weight, gate.log_sigma2]
    for slope, wanted in zip(torch.autograd.grad(found, both), torch.autograd.grad(by_hand, both), strict=True):
        torch.testing.assert_close(slope, wanted)


def test_the_price_joins_the_gradients_and_warms_up() -> None:
    """With no loss but the price, weights move along its gradient, times t/T of the warm-up."""
    model = mlp()
    Pruner(model, methods.variational_dropout(steps=10, warm_up=4, examples=5, rate=1e-2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found, log_sigma2 = gates(model), {n: g.log_sigma2.detach().clone() for n, g in gates(model).items()}
    for number in range(6):
        before = weights(model)
        log_sigma2 = {n: g.log_sigma2.detach().clone() for n, g in found.items()}
        optimizer.zero_grad()
        (model(batch(number)[0]) * 0).sum().backward()
        optimizer.step()
        for name, start in log_sigma2.items():
            weight = before[name].requires_grad_()
            (slope,) = torch.autograd.grad(_by_hand(start, weight).sum(), weight)
            wanted = weight.detach() - 0.5 * min(1, number / 4) / 5 * slope
            torch.testing.assert_close(model.get_parameter(name).detach(), wanted)
            # log σ² has an Adam of its own: its steps are of the rate's size, and upwards
            moved = found[name].log_sigma2.detach() - start
            assert bool((moved >= 0).all()) and (number == 0 or 0.005 < float(moved.max()) < 0.0201)


def test_dead_weights_are_left_out_of_training_too_unless_told_otherwise() -> None:
    for clip in (True, False):
        model, _ = _begun(nn.Linear(4, 3, bias=False), clip=clip)
        (gate,) = gates(model).values()
        with torch.no_grad():
            gate.log_sigma2.fill_(20.0)
        out = model(torch.ones(2, 4, dtype=torch.float64))
        assert (float(out.abs().max().detach()) < 1e-3) == clip


def test_it_is_trained_in_any_loop_with_or_without_adopt() -> None:
    ends = []
    for adopted in (False, True):
        model = mlp()
        pruner = Pruner(model, methods.variational_dropout(steps=6, rate=0.1))
        optimizer = sgd(model)  # after the gates: it has their parameters too, and must not move them
        if adopted:
            pruner.adopt(optimizer)
        assert pruner.parameters() == []
        for number in range(6):
            torch.manual_seed(number)
            train(model, optimizer, number)
        pruner.finish()
        ends.append(model)
    assert same(*ends)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 8.0}, "must lie between, got 8"),
        ({"threshold": -9.0}, "kept within ±8"),
        ({"warm_up": 10}, r"`warm_up` must end before training does, after 10 steps, got 10"),
        ({"warm_up": -1}, "warm_up >= 0"),
        ({"examples": 0}, "examples >= 1"),
        ({"rate": 0.0}, "rate > 0"),
        ({"strength": -1.0}, "strength >= 0"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        methods.variational_dropout(steps=10, **options)
