"""OBD against its definition: the rise of the loss when a weight goes, to second order at a minimum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import batch, mlp, sgd
from online_cases import step as train
from secateur import Pruner, measures, methods, prunable, prune, schedule, scores, structure
from secateur._base.errors import SecateurError

Batches = list[tuple[Tensor, Tensor]]


def _quadratic(size: int) -> tuple[nn.Linear, Batches, Tensor, Tensor]:
    """A layer whose outputs are its weights, at the minimum of L(w) = ½ Σ c_k (w_k − a_k)²."""
    optimum, curvature = torch.randn(size, dtype=torch.float64), torch.rand(size, dtype=torch.float64) + 0.1
    model = nn.Linear(size, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(optimum[None])
    return model, [(torch.eye(size, dtype=torch.float64), optimum[:, None])], optimum, curvature


def test_on_a_diagonal_quadratic_the_score_is_the_rise_of_the_loss() -> None:
    model, batches, optimum, curvature = _quadratic(9)

    def loss(out: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (curvature[:, None] * (out - target).square()).sum()

    found = scores(model, methods.obd(0.5), batches, loss=loss)["weight"][0]
    for k in range(9):
        without = optimum.clone()
        without[k] = 0
        torch.testing.assert_close(found[k], loss(without[:, None], batches[0][1]))
    masks = prune(model, methods.obd(4 / 9), batches, loss=loss)
    assert torch.equal(masks["weight"][0], found >= found.sort().values[-4])


def test_least_squares_has_half_the_sum_of_squared_inputs() -> None:
    x = torch.linalg.qr(torch.randn(8, 5, dtype=torch.float64)).Q * torch.arange(1.0, 6)
    model = nn.Linear(5, 1, bias=False).double()
    targets = torch.randn(8, 1, dtype=torch.float64)
    found = scores(model, methods.obd(0.5), [(x, targets)], loss=_half_squares)
    torch.testing.assert_close(found["weight"], 0.5 * x.square().sum(0) * model.weight.detach().square())


def test_the_score_does_not_see_the_units_of_the_inputs() -> None:
    """w → c·w with x → x/c computes the same, and scores the same: by powers of two, to the last bit."""
    scale = 2.0 ** torch.arange(-6, 6, dtype=torch.float64)
    model, (x, y) = mlp(), batch(0)
    line, [(eye, optimum)], _, _ = _quadratic(12)
    for network, inputs, targets, loss, curvature in (
        (model, x, y, F.cross_entropy, measures.fisher()),
        (line, eye, optimum, _half_squares, measures.hessian_diag()),  # exact: its Hessian is diagonal
    ):
        one = scores(network, methods.obd(0.5, curvature=curvature), [(inputs, targets)], loss=loss)
        with torch.no_grad():
            next(network.parameters()).mul_(scale)
        other = scores(network, methods.obd(0.5, curvature=curvature), [(inputs / scale, targets)], loss=loss)
        assert all(torch.equal(one[name], other[name]) for name in one)


def _half_squares(out: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (out - target).square().sum()


def _scored(model: nn.Module, batches: Batches, **options) -> dict[str, Tensor]:
    return scores(model, methods.obd(0.5, **options), batches, generator=torch.Generator().manual_seed(0))


def test_a_zero_weight_is_worth_nothing_and_nothing_is_worth_less() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[::2, ::3] = 0
    for name, found in _scored(model, [batch(0)]).items():
        zero = model.get_parameter(name) == 0
        assert bool((found[zero] == 0).all()) and bool((found >= 0).all()) and bool((found[~zero] > 0).any())


def test_with_the_fisher_it_is_half_the_squared_gradients_times_w_squared() -> None:
    model, (x, y) = mlp(), batch(0)
    singles = [(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    found = _scored(model, singles, curvature=measures.fisher())
    params = prunable(model)
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for one, label in singles:
        for name, grad in zip(
            params, torch.autograd.grad(F.cross_entropy(model(one), label), list(params.values())), strict=True
        ):
            total[name] += grad**2
    for name, parameter in params.items():
        torch.testing.assert_close(found[name], 0.5 * total[name] * parameter.detach() ** 2)


def test_more_samples_come_closer_to_the_exact_diagonal() -> None:
    model, (x, y) = mlp(), batch(0)
    weight = model[2].weight
    probabilities = torch.softmax(model(x), 1).detach()
    hidden = torch.tanh(model[0](x)).detach()
    # Of the last layer under cross-entropy: h_ij = mean_n p_ni (1 − p_ni) x_nj².
    exact = torch.einsum("ni,nj->ij", probabilities * (1 - probabilities), hidden**2) / len(x)
    wanted = 0.5 * exact * weight.detach() ** 2
    errors = [
        float((_scored(model, [(x, y)], curvature=measures.hessian_diag(samples=n))["2.weight"] - wanted).norm())
        for n in (2, 400)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_a_unit_costs_what_its_weights_cost() -> None:
    model = mlp()
    single = _scored(model, [batch(0)])
    method = methods.obd(0.4, structure=structure.filters())
    masks = prune(model, method, [batch(0)], generator=torch.Generator().manual_seed(0))
    rows = torch.cat([found.sum(1) for found in single.values()])
    kept = torch.cat([mask.any(1) for mask in masks.values()])
    assert all(bool(row.all()) or not bool(row.any()) for mask in masks.values() for row in mask)
    assert float(rows[kept].min()) > float(rows[~kept].max())


def test_in_training_it_needs_batches_or_the_fisher() -> None:
    plan = schedule.cubic(0.3, begin=2, end=6, every=2)
    with pytest.raises(SecateurError, match="'hessian_diag' cannot be measured from a training step's gradients"):
        Pruner(mlp(), methods.obd(0.3, schedule=plan))
    for options, batches in (({}, [batch(50)]), ({"curvature": measures.fisher()}, None)):
        model = mlp()
        pruner = Pruner(model, methods.obd(0.3, schedule=plan, **options), batches, generator=torch.Generator())
        optimizer = sgd(model)
        for t in range(6):
            train(model, optimizer, t)
        assert pruner.finish().kept == 90


def test_a_schedule_must_end_where_the_density_says() -> None:
    with pytest.raises(SecateurError, match=r"`schedule` ends at density 0\.3, got density=0\.5"):
        methods.obd(0.5, schedule=schedule.once(0.3))
    assert methods.obd(0.5) == methods.obd(0.5) != replace(methods.obd(0.5), name="other")
