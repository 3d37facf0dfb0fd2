"""The Hessian's diagonal by random signs: exact where it must be, and within its known error elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import prunable
from secateur._base.errors import SecateurError
from secateur.measures import fisher, gather, hessian_diag, movement


class _Point(nn.Module):
    """A parameter vector as a model: the loss is whatever function of it one likes."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        return self.theta


def _diagonal(model: nn.Module, loss, batches: list, samples: int, seed: int = 0, **options) -> dict[str, Tensor]:
    return gather(
        model,
        batches,
        [hessian_diag(samples=samples, **options)],
        params=dict(model.named_parameters()),
        loss=loss,
        generator=torch.Generator().manual_seed(seed),
    )["hessian_diag"]


ONE = [(torch.zeros(1), torch.zeros(1))]


@pytest.mark.parametrize("seed", range(3))
def test_one_draw_is_exact_on_a_diagonal_quadratic(seed: int) -> None:
    curvature = torch.tensor([3.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    model = _Point(torch.randn(4, dtype=torch.float64))
    found = _diagonal(model, lambda theta, _: 0.5 * (curvature * theta**2).sum(), ONE, samples=1, seed=seed)
    assert torch.equal(found["theta"], curvature)


def test_batches_add_up_and_draws_average() -> None:
    model = _Point(torch.randn(3, dtype=torch.float64))
    batches = [(torch.zeros(1), torch.tensor(scale)) for scale in (1.0, 2.0, 4.0)]
    for samples in (1, 5):
        found = _diagonal(model, lambda theta, scale: scale * (theta**2).sum(), batches, samples=samples)
        torch.testing.assert_close(found["theta"], torch.full((3,), 14.0, dtype=torch.float64))


def test_a_general_quadratic_within_the_error_that_theory_gives() -> None:
    """Unbiased, with variance Σ_{j≠k} H_kj² / K: the mean of the squared, scaled errors is 1."""
    root = torch.randn(12, 12, dtype=torch.float64)
    h, samples = root @ root.T, 64
    model = _Point(torch.randn(12, dtype=torch.float64))
    deviation = ((h**2).sum(1) - h.diagonal() ** 2).div(samples).sqrt()
    errors = []
    for seed in range(40):
        found = _diagonal(model, lambda theta, _: 0.5 * theta @ h @ theta, ONE, samples=samples, seed=seed)["theta"]
        errors.append((found - h.diagonal()) / deviation)
    scaled = torch.stack(errors)
    assert scaled.mean(0).abs().max() < 4 / 40**0.5
    assert 0.8 < float(scaled.square().mean()) < 1.2


def test_a_small_network_against_autograds_whole_hessian() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2
    params = dict(model.named_parameters())

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in params.values()])
        given = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, given, x), y)

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    h = torch.autograd.functional.hessian(loss, flat)
    samples = 2000
    found = _diagonal(model, F.cross_entropy, [(x, y)], samples=samples)
    estimate = torch.cat([tensor.flatten() for tensor in found.values()])
    deviation = ((h**2).sum(1) - h.diagonal() ** 2).div(samples).sqrt()
    assert ((estimate - h.diagonal()).abs() < 4.5 * deviation + 1e-12).all()
    step, weight = 1e-4, params["2.weight"]  # and the exact diagonal itself, by differences of the loss
    with torch.no_grad():
        around = [F.cross_entropy(model(x), y)]
        for move in (step, -2 * step):
            weight[0, 0] += move
            around.append(F.cross_entropy(model(x), y))
    index = 3 * 4 + 4
    torch.testing.assert_close((around[1] - 2 * around[0] + around[2]) / step**2, h[index, index], rtol=1e-4, atol=1e-6)


def _half_squares(out: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (out - y).square().sum()


def test_least_squares_has_the_sum_of_squared_inputs() -> None:
    """½ Σ_n (w·x_n − y_n)²: h_k = Σ_n x_nk², here with inputs that are orthogonal, so that one draw tells it."""
    x = torch.tensor([[1.0, 4.0], [2.0, -2.0]], dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double()
    found = _diagonal(model, _half_squares, [(x, torch.zeros(2, 1, dtype=torch.float64))], samples=1)
    torch.testing.assert_close(found["weight"], torch.tensor([[5.0, 20.0]], dtype=torch.float64))


def test_half_h_w_squared_is_the_rise_of_a_diagonal_quadratic() -> None:
    curvature, optimum = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([0.5, -1.0, 2.0])
    model = _Point(optimum.clone())

    def loss(theta: Tensor, _: Tensor | None) -> Tensor:
        return 0.5 * (curvature * (theta - optimum) ** 2).sum()

    found = _diagonal(model, loss, ONE, samples=1)["theta"]
    for k in range(3):
        without = optimum.clone()
        without[k] = 0
        torch.testing.assert_close(0.5 * found[k] * optimum[k] ** 2, loss(without, None))


def test_draws_are_the_generators() -> None:
    model, state = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.get_rng_state()
    batches = [(torch.ones(2, 3), torch.tensor([0, 1]))]
    first, same, other = (_diagonal(model, F.cross_entropy, batches, 1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first["0.weight"], same["0.weight"]) and not torch.equal(first["0.weight"], other["0.weight"])
    assert torch.equal(state, torch.get_rng_state())
    assert _diagonal(model, F.cross_entropy, batches, 1, dtype=torch.float64)["0.weight"].dtype == torch.float64


@pytest.mark.parametrize("module", [nn.LSTM(6, 5, batch_first=True), nn.TransformerEncoderLayer(6, 2, 8)])
def test_fused_layers_are_differentiated_twice(module: nn.Module) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            out = self.inner(x)
            return (out[0] if isinstance(out, tuple) else out)[:, -1]

    model, batch = Last().eval(), (torch.randn(4, 3, 6), torch.arange(4) % 5)
    found = gather(model, [batch], [hessian_diag()], params=prunable(model))["hessian_diag"]
    assert all(bool(torch.isfinite(t).all()) and bool((t != 0).any()) for t in found.values())


def test_it_cannot_be_read_off_a_training_step() -> None:
    from secateur.measures import check_online

    with pytest.raises(SecateurError, match="'hessian_diag' cannot be measured from a training step's gradients"):
        check_online(hessian_diag())
    check_online(fisher())
    check_online(movement())
    with pytest.raises(SecateurError, match="`samples` must be at least 1, got 0"):
        hessian_diag(samples=0)
