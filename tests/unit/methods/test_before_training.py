"""The rest of pruning before training: ProsPr, NTK-SAP, NTT, PHEW, SBP-SR, isometry, smart ratios, CNIP."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from secateur import Masks, gather, methods, prunable, prune, scores
from secateur._base.errors import SecateurError, UnfitModelError
from secateur.axes import scope
from secateur.repairs.restored import isometric, rescaled
from secateur.signals import (
    correlation_slope,
    edge_of_chaos,
    edge_of_chaos_,
    effective,
    kernel_change,
    orthogonal_,
    prospect,
    singular_values,
    tangent_kernel,
    transferred,
)


def mlp(*sizes: int, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1]).double()


def batches(count: int, size: int = 16, inputs: int = 8, classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(7)
    make = range(count)
    return [
        (torch.randn(size, inputs, generator=g, dtype=torch.float64), torch.arange(size).add(k) % classes) for k in make
    ]


def measured(model: nn.Module, measure, data, seed: int = 0) -> dict[str, Tensor]:
    found = gather(model, data, [measure], params=prunable(model), generator=torch.Generator().manual_seed(seed))
    return found[measure.name]


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


# --- PHEW ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
def test_every_weight_of_phew_is_on_a_path(density: float) -> None:
    model = mlp(20, 40, 30, 5)
    masks = prune(
        model, methods.phew(density), [torch.zeros(1, 20).double()], generator=torch.Generator().manual_seed(1)
    )
    assert effective(mlp(20, 40, 30, 5), masks, torch.zeros(1, 20).double()) == masks


def test_walks_through_convolutions_are_paths_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 4, 5)
    )
    masks = prune(model, methods.phew(0.1), [torch.zeros(1, 1, 8, 8)], generator=torch.Generator().manual_seed(1))
    assert effective(model, masks, torch.zeros(1, 1, 8, 8)) == masks and not masks.empty


def test_steps_of_a_walk_go_by_magnitude_and_visit_inputs_in_turn() -> None:
    from secateur.signals._walks import _drawn, _layer

    weight = torch.tensor([[1.0, -3.0], [0.5, 0.0], [2.5, 1.0]])
    layers = [_layer(weight, 2, 0)]
    paths = next(_drawn(layers, torch.Generator().manual_seed(0))).reshape(-1, 2)
    forward, backward = paths.T
    assert Counter((forward % 2).tolist()) == {0: 1024, 1: 1024}
    assert set(Counter((backward // 2).tolist()).values()) == {682, 683}
    for column in (0, 1):
        seen = Counter(forward[forward % 2 == column].tolist())
        shares = weight[:, column].abs() / weight[:, column].abs().sum()
        for row, share in enumerate(shares.tolist()):
            assert seen[2 * row + column] / 1024 == pytest.approx(share, abs=0.05)
    seen = Counter(backward[backward // 2 == 0].tolist())
    assert seen[1] / (seen[0] + seen[1]) == pytest.approx(0.75, abs=0.05)


def test_what_is_no_chain_is_refused_before_anything_changes() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 6), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    with pytest.raises(UnfitModelError, match="Walks go from layer to layer of a chain"):
        prune(Beside(), methods.phew(0.2), [torch.zeros(1, 8)])


# --- SBP-SR and isometry ------------------------------------------------------------------------------------------


def test_the_edge_of_chaos() -> None:
    assert correlation_slope(torch.relu, 2**0.5) == pytest.approx(1, abs=1e-9)
    assert correlation_slope(torch.relu, 1.0) == pytest.approx(0.5, abs=1e-9)
    assert edge_of_chaos() == pytest.approx(2**0.5, rel=1e-9)
    assert edge_of_chaos(torch.tanh, 0.2) > edge_of_chaos(torch.tanh) > 0.99
    assert correlation_slope(torch.tanh, edge_of_chaos(torch.tanh, 0.2), 0.2) == pytest.approx(1, abs=1e-6)
    with pytest.raises(SecateurError, match="`bias_std` must not be negative"):
        edge_of_chaos(torch.tanh, -1.0)


def test_rescaled_survivors_carry_what_the_layer_did() -> None:
    depth, width = 30, 100
    model = mlp(*[width] * (depth + 1))
    edge_of_chaos_(model, generator=torch.Generator().manual_seed(0))
    whole = {n: float(p.detach().square().sum()) for n, p in prunable(model).items()}
    x = torch.randn(256, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        dense = float(model(x).square().mean())
    plain, repaired = mlp(*[width] * (depth + 1)), mlp(*[width] * (depth + 1))
    for net in (plain, repaired):
        net.load_state_dict(model.state_dict())
    drawn = replace(methods.random(0.3), repair=rescaled())
    masks = prune(plain, methods.random(0.3), generator=torch.Generator().manual_seed(1))
    assert prune(repaired, drawn, generator=torch.Generator().manual_seed(1)) == masks
    for name, p in prunable(repaired).items():
        assert float(p.detach().square().sum()) == pytest.approx(whole[name], rel=1e-9)
    with torch.no_grad():
        cut, back = float(plain(x).square().mean()), float(repaired(x).square().mean())
    assert cut < 1e-9 * dense and 0.01 * dense < back < 100 * dense
    data, other = batches(1), mlp(8, 12, 4)
    assert prune(other, methods.sbp_sr(0.3), data) == prune(mlp(8, 12, 4), methods.snip(0.3), data)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (8, 3, 3, 3)])
def test_orthogonal_weights_have_singular_values_of_one(shape: tuple[int, ...]) -> None:
    layer: nn.Module = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
    orthogonal_(layer, generator=torch.Generator().manual_seed(0))
    (values,) = singular_values({"w": layer.get_parameter("weight")}).values()
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-6)


def test_isometry_moves_singular_values_towards_one_and_leaves_masks_alone() -> None:
    data = batches(1, inputs=40)
    plain, repaired = mlp(40, 60, 30, 4), mlp(40, 60, 30, 4)
    for net in (plain, repaired):
        orthogonal_(net, generator=torch.Generator().manual_seed(0))
    masks = prune(plain, methods.snip(0.2), data)
    assert prune(repaired, methods.isometry(0.2, rounds=300), data) == masks
    for name, mask in masks.items():
        before, after = (net.get_parameter(name).detach() for net in (plain, repaired))
        assert bool((after[~mask] == 0).all())
        one, two = (singular_values({"": w})[""] for w in (before, after))
        assert abs(float(two.mean()) - 1) < abs(float(one.mean()) - 1)

        def distance(w: Tensor) -> float:
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            return float(torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=w.dtype)))

        assert distance(after) < distance(before)


def test_an_orthogonal_layer_is_left_as_it_is() -> None:
    model = nn.Linear(6, 6, bias=False).double()
    orthogonal_(model, generator=torch.Generator().manual_seed(0))
    before = model.weight.detach().clone()
    prune(model, methods.isometry(1.0, rounds=5), [(torch.eye(6).double(), torch.arange(6))])
    torch.testing.assert_close(model.weight.detach(), before)
    for wrong in ({"iterations": 0}, {"rate": 0.0}):
        with pytest.raises(SecateurError, match="must be"):
            isometric(**wrong)  # type: ignore[arg-type]


# --- smart ratios and CNIP ----------------------------------------------------------------------------------------


def test_smart_ratios_by_hand() -> None:
    model = mlp(784, 300, 100, 10)
    masks = prune(model, methods.smart_ratio(0.05), generator=torch.Generator().manual_seed(0))
    kept = {layer.name: layer.kept for layer in masks.layers()}
    c = (0.05 * 266_200 - 300) / (12 * 235_200 + 6 * 30_000)
    assert kept == {"0.weight": round(12 * c * 235_200), "2.weight": round(6 * c * 30_000), "4.weight": 300}
    assert sum(kept.values()) == 13_310
    with pytest.raises(SecateurError, match=r"smart_ratio keeps 30% of '4\.weight'"):
        prune(mlp(784, 300, 100, 10), methods.smart_ratio(0.001))


def test_cnip_cuts_weights_and_whole_units_by_one_threshold() -> None:
    model, data = mlp(8, 30, 20, 4), batches(1)
    slopes = gather(model, data, [methods.snip(0.5).measures[1]], params=prunable(model))["grad"]
    flow = {n: p.detach() * slopes[n] for n, p in prunable(model).items()}
    found = scores(model, methods.cnip(0.2, iterative=False), data)
    masks = prune(model, methods.cnip(0.2, iterative=False), data)
    threshold = min(float(found[n][m].min()) for n, m in masks.items())
    for name, mask in masks.items():
        weights = flow[name].abs() >= threshold
        rows, columns = flow[name].sum(1).abs() >= threshold, flow[name].sum(0).abs() >= threshold
        assert torch.equal(mask, weights & rows[:, None] & columns[None])
        assert bool((~rows).any()) or name == "4.weight"
    # A unit's gate on its outputs is its gate on its inputs, without a bias in between: no unit keeps one side alone.
    bare = mlp(8, 30, 4)
    nn.init.zeros_(bare[0].bias)  # type: ignore[arg-type]
    one, two = (scores(bare, methods.cnip(0.2, iterative=False), data)[n] for n in ("0.weight", "2.weight"))
    slopes = gather(bare, data, [methods.snip(0.5).measures[1]], params=prunable(bare))["grad"]
    into, out = (slopes[n] * bare.get_parameter(n).detach() for n in ("0.weight", "2.weight"))
    torch.testing.assert_close(into.sum(1), out.sum(0))
    assert bool((one <= into.sum(1).abs()[:, None] + 1e-12).all() and (two <= out.sum(0).abs() + 1e-12).all())
