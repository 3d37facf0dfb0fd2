"""Pruning before training by what training would do: ProsPr, NTK-SAP, NTT."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from secateur import Masks, gather, methods, prunable, prune
from secateur._base.errors import SecateurError
from secateur.axes import scope
from secateur.signals import (
    kernel_change,
    prospect,
    tangent_kernel,
    transferred,
)
from signal_cases import batches, measured, mlp

# --- ProsPr -------------------------------------------------------------------------------------------------------


def test_prospr_without_steps_is_snip() -> None:
    one, two, data = mlp(8, 12, 4), mlp(8, 12, 4), batches(1)
    assert prune(one, methods.prospr(0.2, inner=0), data) == prune(two, methods.snip(0.2), data)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_meta_gradient_is_that_of_a_training_written_out(momentum: float) -> None:
    model, data, rate = mlp(8, 6, 4, activation=nn.Tanh), batches(3), 0.3
    found = measured(model, prospect(steps=2, rate=rate, momentum=momentum), data)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}

    def after(gates: dict[str, Tensor]) -> Tensor:
        def loss(theta: dict[str, Tensor], k: int) -> Tensor:
            held = {n: t * gates[n] if n in gates else t for n, t in theta.items()}
            return F.cross_entropy(functional_call(model, held, (data[k][0],)), data[k][1])

        theta, speed = weights, {}
        for k in range(2):
            slopes = torch.func.grad(loss)(theta, k)
            speed = {n: slopes[n] + momentum * speed[n] if speed else slopes[n] for n in slopes}
            theta = {n: theta[n] - rate * speed[n] for n in theta}
        return loss(theta, 2)

    for name, value in found.items():
        for place in (0, 5, 17):
            gap = []
            for move in (1e-5, -1e-5):
                gates = {n: torch.ones_like(weights[n]) for n in found}
                gates[name].view(-1)[place] += move
                gap.append(after(gates))
            assert float(value.flatten()[place]) == pytest.approx(float(gap[0] - gap[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_the_meta_gradient_of_a_quadratic_in_closed_form() -> None:
    # L = ½(c w x − y)²: w' = w − η c x (c w x − y), differentiated by hand at c = 1.
    model = nn.Linear(1, 1, bias=False).double()
    x, y, w, rate = 1.5, 0.7, 0.9, 0.1
    nn.init.constant_(model.weight, w)
    data = [(torch.tensor([[x]], dtype=torch.float64), torch.tensor([[y]], dtype=torch.float64))]
    measure = prospect(steps=1, rate=rate)
    loss = lambda output, target: 0.5 * F.mse_loss(output, target)  # noqa: E731
    found = gather(model, data, [measure], params=prunable(model), loss=loss)["prospect"]["weight"]
    after = w - rate * x * (w * x - y)
    moved = -rate * (x * (w * x - y) + x * w * x)
    assert float(found) == pytest.approx((after * x - y) * x * (after + moved), rel=1e-12)


def test_first_order_is_the_full_one_where_the_loss_is_linear() -> None:
    model, data = nn.Sequential(nn.Linear(5, 3)).double(), [(torch.randn(4, 5, dtype=torch.float64), torch.zeros(4))]
    loss = lambda output, target: (output * torch.arange(3.0)).sum()  # noqa: E731
    one, two = (
        gather(model, data, [prospect(steps=3, first_order=first)], params=prunable(model), loss=loss)["prospect"]
        for first in (False, True)
    )
    torch.testing.assert_close(one["0.weight"], two["0.weight"])
    curved = mlp(8, 6, 4)
    full, plain = (measured(curved, prospect(steps=2, first_order=first), batches(1)) for first in (False, True))
    assert not torch.allclose(full["0.weight"], plain["0.weight"], rtol=1e-3)


def test_a_prospect_leaves_the_network_as_it_was_and_refuses_nonsense() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measured(model, prospect(train=True), batches(2))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(SecateurError, match="`steps` of a prospect must be 0 or more, got -1"):
        methods.prospr(0.1, inner=-1)
    with pytest.raises(SecateurError, match="`rate` must be positive"):
        methods.prospr(0.1, rate=0.0)


# --- NTK-SAP ------------------------------------------------------------------------------------------------------


def test_ntk_sap_does_not_look_at_labels_values_or_weights() -> None:
    data = batches(1)
    others = [(data[0][0] * 3 - 1, (data[0][1] + 1) % 4)]

    def made(model: nn.Module, some) -> Masks:
        return prune(model, methods.ntk_sap(0.2, rounds=3), some, generator=torch.Generator().manual_seed(5))

    assert made(mlp(8, 12, 4), data) == made(mlp(8, 12, 4), others)


def test_ntk_sap_goes_as_the_square_of_epsilon_and_its_masks_are_nested() -> None:
    model = mlp(8, 12, 4, activation=nn.Tanh)
    found = [measured(model, kernel_change(epsilon=e), batches(1))["0.weight"] / e**2 for e in (1e-4, 1e-5)]
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=1e-4 * float(found[1].abs().max()))
    data = batches(1)
    large = prune(mlp(8, 12, 4), methods.ntk_sap(0.5, rounds=1), data, generator=torch.Generator().manual_seed(5))
    small = prune(
        mlp(8, 12, 4), methods.ntk_sap(0.1, rounds=1), data, masks=large, generator=torch.Generator().manual_seed(5)
    )
    assert (small & large) == small


def test_ntk_sap_by_finite_differences_of_the_masks() -> None:
    # The weights of one row are equal, so that a permutation of them is known; ones stand for the noise's draws.
    model = nn.Linear(3, 2, bias=False).double()
    nn.init.constant_(model.weight, 0.5)
    data, epsilon = [torch.zeros(4, 3, dtype=torch.float64)], 0.1
    g = torch.Generator().manual_seed(3)
    found = gather(model, data, [kernel_change(epsilon=epsilon)], params=prunable(model), generator=g)
    g.manual_seed(3)
    x = torch.randn(4, 3, generator=g).double()
    torch.randperm(6, generator=g)
    delta = torch.randn(2, 3, generator=g).double()
    mask = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    gap = x @ (0.5 * mask).T - x @ ((0.5 + epsilon * delta) * mask).T
    gap.square().sum().backward()
    torch.testing.assert_close(found["kernel_change"]["weight"], mask.grad)


def test_batch_norms_take_the_statistics_of_noise_and_get_their_own_back() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, momentum=0.3), nn.ReLU(), nn.Linear(6, 4)).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = measured(model, kernel_change(resamples=2), batches(1))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d) and norm.momentum == 0.3 and norm.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    shifted = mlp(8, 6, 4)
    shifted.insert(1, nn.BatchNorm1d(6).double())
    shifted.load_state_dict({k: v + 5 if "running" in k else v for k, v in before.items()})
    other = measured(shifted, kernel_change(resamples=2), batches(1))
    torch.testing.assert_close(found["0.weight"], other["0.weight"])  # running statistics play no part


# --- NTT ----------------------------------------------------------------------------------------------------------


def test_the_tangent_kernel_is_torchs() -> None:
    model, (x1, x2) = mlp(5, 7, 3, activation=nn.Tanh), torch.randn(2, 4, 5, dtype=torch.float64)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    one, two = (jacrev(lambda w, x=x: functional_call(model, w, (x,)))(weights) for x in (x1, x2))
    expected = sum(one[n].flatten(2).flatten(0, 1) @ two[n].flatten(2).flatten(0, 1).T for n in weights)
    torch.testing.assert_close(tangent_kernel(model, x1, x2), expected)


def test_at_density_one_the_student_is_the_teacher() -> None:
    model = mlp(8, 10, 4)
    found = measured(model, transferred(keep=1.0, rounds=2, every=5, decay=0.0), batches(2))
    assert all(torch.equal(found[n], p) for n, p in prunable(model).items())


def test_ntt_counts_by_layer_needs_no_labels_and_comes_nearer() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dense, plain, model = (mlp(8, 40, 4) for _ in range(3))
    made = methods.ntt(0.15, rounds=6, every=50, rate=5e-3, decay=0.0)
    masks = prune(model, made, [x], generator=torch.Generator().manual_seed(0))
    assert [layer.kept for layer in masks.layers()] == [48, 24]
    masks_of_start = prune(plain, methods.magnitude(0.15, scope=scope.layerwise()))
    assert masks_of_start.kept == masks.kept
    with torch.no_grad():
        far, near = (float((net(x) - dense(x)).square().mean()) for net in (plain, model))
    assert near < 0.5 * far
    kernel = tangent_kernel(dense, x[:4], x[4:8])
    far, near = (float((tangent_kernel(net, x[:4], x[4:8]) - kernel).square().mean()) for net in (plain, model))
    assert near < far


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["prospr", "ntk_sap", "ntt", "cnip", "phew"])
def test_halves_are_measured_in_float32(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)).to(dtype)
    batch = torch.randn(8, 3, 6, 6).to(dtype), torch.arange(8) % 4
    rounds = {"ntk_sap": {"rounds": 2}, "ntt": {"rounds": 2, "every": 2}}.get(name, {})
    masks = prune(model, getattr(methods, name)(0.3, **rounds), [batch], generator=torch.Generator().manual_seed(0))
    assert abs(masks.density - 0.3) < 0.01 and all(p.dtype == dtype for p in model.parameters())
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
