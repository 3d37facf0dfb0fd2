"""Evidence against independent references: autograd by another road, finite differences, closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur import gather, measures, prunable
from secateur._base.errors import SecateurError
from secateur.measures import Measure


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def _batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(8, 6, dtype=torch.float64), torch.randint(3, (8,))) for _ in range(count)]


def _by_hand(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    params = prunable(model)
    grads = torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), list(params.values()))
    return dict(zip(params, grads, strict=True))


def _gather(model: nn.Module, batches: list, *wanted: Measure) -> dict[str, dict[str, torch.Tensor]]:
    return gather(model, batches, wanted, params=prunable(model))


def test_gradients_add_up_in_the_four_ways(model: nn.Module) -> None:
    batches = _batches(3)
    each = [_by_hand(model, batch) for batch in batches]
    found = _gather(
        model,
        batches,
        measures.grad(),
        measures.grad_magnitude(),
        measures.grad_average(decay=0.75),
        measures.fisher(),
    )
    for name in prunable(model):
        a, b, c = (grads[name] for grads in each)
        torch.testing.assert_close(found["grad"][name], a + b + c)
        torch.testing.assert_close(found["grad_magnitude"][name], a.abs() + b.abs() + c.abs())
        torch.testing.assert_close(found["grad_average"][name], 0.75 * (0.75 * a + 0.25 * b) + 0.25 * c)
        torch.testing.assert_close(found["fisher"][name], a**2 + b**2 + c**2)


def test_measures_on_one_batch_do_not_share_buffers(model: nn.Module) -> None:
    found = _gather(model, _batches(1), measures.grad(), measures.grad_average())
    found["grad"]["0.weight"].zero_()
    assert found["grad_average"]["0.weight"].abs().sum() > 0


def test_a_weight_times_its_gradient_is_the_gradient_of_its_indicator(model: nn.Module) -> None:
    batch = _batches(1)[0]
    indicators = {name: torch.ones_like(p, requires_grad=True) for name, p in prunable(model).items()}
    masked = {name: p * indicators[name] for name, p in prunable(model).items()}
    loss = F.cross_entropy(torch.func.functional_call(model, masked, batch[0]), batch[1])
    wanted = torch.autograd.grad(loss, list(indicators.values()))
    grad = _gather(model, [batch], measures.grad())["grad"]
    for (name, parameter), expected in zip(prunable(model).items(), wanted, strict=True):
        torch.testing.assert_close(grad[name] * parameter, expected)


def test_hessian_grad_is_the_change_of_the_gradient_along_itself(model: nn.Module) -> None:
    batches, temperature, step = _batches(2), 3.0, 1e-5

    def grads() -> dict[str, torch.Tensor]:
        total: dict[str, torch.Tensor] = {}
        for x, y in batches:
            loss = F.cross_entropy(model(x) / temperature, y)
            found = torch.autograd.grad(loss, list(prunable(model).values()))
            total = {n: total.get(n, 0) + g for n, g in zip(prunable(model), found, strict=True)}
        return total

    found = _gather(model, batches, measures.hessian_grad(temperature=temperature))["hessian_grad"]
    direction = grads()
    shifted = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in prunable(model).items():
                parameter += sign * step * direction[name]
        shifted.append(grads())
        with torch.no_grad():
            for name, parameter in prunable(model).items():
                parameter -= sign * step * direction[name]
    for name in found:
        torch.testing.assert_close(
            found[name], (shifted[0][name] - shifted[1][name]) / (2 * step), rtol=1e-3, atol=1e-9
        )


def test_hessian_grad_of_a_quadratic_is_a_squared_theta() -> None:
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.theta

    model = Point()
    found = gather(
        model,
        [(torch.zeros(1), torch.zeros(1))],
        [measures.hessian_grad()],
        params=dict(model.named_parameters()),
        loss=lambda theta, _: 0.5 * (theta @ a @ theta.T).squeeze(),
    )
    torch.testing.assert_close(found["hessian_grad"]["theta"], model.theta.detach() @ a @ a)


@pytest.mark.parametrize("module", [nn.LSTM(6, 5, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True)])
def test_hessian_grad_differentiates_fused_layers_twice(module: nn.Module) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.inner(x, x, x) if isinstance(self.inner, nn.MultiheadAttention) else self.inner(x)
            return out[0][:, -1]

    model, batch = Wrapped(), (torch.randn(4, 3, 6), torch.arange(4) % 5)
    found = _gather(model, [batch], measures.hessian_grad(train=True))["hessian_grad"]
    assert all(bool(torch.isfinite(t).all()) and bool((t != 0).any()) for t in found.values())


def test_flow_matches_products_of_absolute_weights(model: nn.Module) -> None:
    mlp = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3))
    found = _gather(mlp, [torch.randn(2, 6)], measures.flow())["flow"]
    w1, w2, w3 = (mlp[i].weight.detach().double().abs() for i in (0, 2, 4))
    ones = torch.ones(6, dtype=torch.float64)
    above2 = torch.ones(3, dtype=torch.float64) @ w3
    torch.testing.assert_close(found["4.weight"], (w2 @ w1 @ ones).expand(3, 4))
    torch.testing.assert_close(found["2.weight"], torch.outer(above2, w1 @ ones))
    torch.testing.assert_close(found["0.weight"], torch.outer(above2 @ w2, ones))


def test_flow_survives_what_overflows_float32() -> None:
    deep = nn.Sequential(*(layer for _ in range(80) for layer in (nn.Linear(64, 64), nn.ReLU())))
    found = _gather(deep, [torch.ones(1, 64)], measures.flow())["flow"]
    largest = max(float((t * deep.get_parameter(n).detach().abs()).sum()) for n, t in found.items())
    assert 3.4e38 < largest < float("inf")


def test_flow_uses_no_data_and_reads_batch_norm_as_a_scaling() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[1].running_mean.fill_(7.0)
        net[1].running_var.copy_(torch.tensor([1.0, 4.0, 9.0]))
        net[1].weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
    a = _gather(net, [torch.randn(5, 2, 4, 4)], measures.flow())["flow"]
    b = _gather(net, [torch.full((1, 2, 4, 4), float("nan"))], measures.flow())["flow"]
    assert all(torch.equal(a[name], b[name]) for name in a)
    conv = net[0].weight.detach().double().abs()
    scale = torch.tensor([1.0, 2.0, 3.0]).double() / torch.sqrt(torch.tensor([1.0, 4.0, 9.0]).double() + 1e-5)
    hidden = (conv.sum((1, 2, 3)) * scale).repeat_interleave(4)
    torch.testing.assert_close(a["4.weight"], hidden.expand(2, 12))


def test_a_network_without_a_path_has_no_flow() -> None:
    dead = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    nn.init.zeros_(dead[1].weight)
    with pytest.raises(SecateurError, match="no path is left from input to output"):
        _gather(dead, [torch.ones(1, 3)], measures.flow())


def test_noise_is_the_generators_and_leaves_the_global_state() -> None:
    model, state = nn.Linear(4, 3), torch.get_rng_state()

    def draw(seed: int) -> torch.Tensor:
        return gather(
            model,
            None,
            [measures.noise()],
            params=prunable(model),
            generator=torch.Generator().manual_seed(seed),
        )["noise"]["weight"]

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(state, torch.get_rng_state())


def test_gather_restores_everything_when_the_model_raises() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.norm(x)
            raise RuntimeError("out of luck")

    model = Breaks().eval()
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    grad = model.fc.weight.grad
    with pytest.raises(RuntimeError, match="out of luck"):
        _gather(model, [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))], measures.grad(train=True))
    assert not model.training and model.norm.running_mean.abs().sum() == 0
    assert model.norm.num_batches_tracked == 0 and model.fc.weight.grad is grad


def test_one_measure_twice_is_an_error(model: nn.Module) -> None:
    with pytest.raises(SecateurError, match="once"):
        _gather(model, _batches(1), measures.grad(), measures.grad())


def test_options_out_of_range() -> None:
    with pytest.raises(SecateurError, match=r"`decay` must be in \[0, 1\), got 1.0"):
        measures.grad_average(decay=1.0)
    with pytest.raises(SecateurError, match=r"`temperature` must be positive, got 0"):
        measures.hessian_grad(temperature=0)
