"""Pruning before training by how signals carry: PHEW, SBP-SR, isometry, smart ratios, CNIP."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from secateur import gather, methods, prunable, prune, scores
from secateur._base.errors import SecateurError, UnfitModelError
from secateur.repairs.restored import isometric, rescaled
from secateur.signals import (
    correlation_slope,
    edge_of_chaos,
    edge_of_chaos_,
    effective,
    orthogonal_,
    singular_values,
)
from signal_cases import batches, mlp

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
    again = mlp(8, 12, 4)
    masks = prune(again, methods.sbp_sr(0.3, rescale=True), data)
    for name, mask in masks.items():
        one, two = (net.get_parameter(name).detach()[mask] for net in (other, again))
        whole, kept = mlp(8, 12, 4).get_parameter(name).detach().norm(), one.norm()
        torch.testing.assert_close(two, one * whole / kept)


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
