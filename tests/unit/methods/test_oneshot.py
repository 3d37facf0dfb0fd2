"""GraSP, LAMP, magnitude and the random baselines against their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur import methods, prunable, prune, schedule, scope, scores, structure
from secateur.axes import erk_densities, igq_densities
from secateur.selection import kept_count

Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def batch() -> Batch:
    return torch.randn(16, 12, dtype=torch.float64), torch.arange(16) % 3


# --- magnitude -------------------------------------------------------------------------------------------------------


def test_magnitude_of_blocks_is_the_sum_of_their_weights(mlp: nn.Module) -> None:
    with torch.no_grad():
        mlp[0].weight.fill_(0.1)
        mlp[0].weight[4:8, 3] = torch.tensor([0.0, 0.0, 0.0, 0.6])
        mlp[0].weight[8:12, 5] = 0.2
    masks = prune(mlp, methods.magnitude(2 / 60, structure=structure.blocks(4, 1)), only=["0.weight"])
    expected = torch.zeros(20, 12, dtype=torch.bool)
    expected[4:8, 3] = expected[8:12, 5] = True
    assert torch.equal(masks["0.weight"], expected)


# --- GraSP -----------------------------------------------------------------------------------------------------------


def test_grasp_is_the_change_of_half_the_squared_gradient_norm(mlp: nn.Module, batch: Batch) -> None:
    """θ ⊙ Hg = θ ⊙ ∇(½‖∇L‖²), by the other road; T = 1."""
    params = list(prunable(mlp).values())
    grads = torch.autograd.grad(F.cross_entropy(mlp(batch[0]), batch[1]), params, create_graph=True)
    half = 0.5 * sum((g**2).sum() for g in grads)
    expected = torch.autograd.grad(half, params)
    found = scores(mlp, methods.grasp(0.5, temperature=1.0), [batch])
    for name, parameter, gradient in zip(found, params, expected, strict=True):
        torch.testing.assert_close(found[name], (parameter * gradient).detach())


def test_grasp_keeps_the_highest_signed_scores(mlp: nn.Module, batch: Batch) -> None:
    found = scores(mlp, methods.grasp(0.3), [batch])
    masks = prune(mlp, methods.grasp(0.3), [batch])
    kept = torch.cat([found[name][masks[name]] for name in found])
    cut = torch.cat([found[name][~masks[name]] for name in found])
    assert kept.min() >= cut.max() and cut.min() < 0


def test_grasp_scores_scale_with_the_square_of_the_loss_and_masks_do_not(mlp: nn.Module, batch: Batch) -> None:
    plain = scores(mlp, methods.grasp(0.3), [batch])
    scaled = scores(mlp, methods.grasp(0.3), [batch], loss=lambda out, y: 3 * F.cross_entropy(out, y))
    for name in plain:
        torch.testing.assert_close(scaled[name], 9 * plain[name])


def test_grasp_temperature_and_sign_change_the_ranking(mlp: nn.Module, batch: Batch) -> None:
    masks = [
        prune(copy.deepcopy(mlp), plan, [batch])
        for plan in (methods.grasp(0.3), methods.grasp(0.3, temperature=1.0), methods.grasp(0.3, signed=False))
    ]
    assert len({tuple(torch.cat([m.flatten() for m in mask.values()]).tolist()) for mask in masks}) == 3


# --- LAMP and magnitude ----------------------------------------------------------------------------------------------


def test_lamp_against_the_definition() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1, 2] = model[0].weight[0, 0]  # a tie
        model[1].weight[0, 0] = 0.0
    masks = prune(model_copy := copy.deepcopy(model), methods.lamp(0.5))
    shares = []
    for name in masks:
        squares = sorted(float(w) ** 2 for w in model.get_parameter(name).detach().flatten())
        shares += [(w / sum(squares[i:]) if w else 0.0) for i, w in enumerate(squares)]
    cut = sorted(shares, reverse=True)[masks.kept]
    for name, mask in masks.items():
        w = model.get_parameter(name).detach().double()
        flat = w.flatten().square()
        for i in range(flat.numel()):
            share = float(flat[i] / flat[flat >= flat[i]].sum()) if flat[i] else 0.0
            if share > cut * (1 + 1e-9):
                assert mask.flatten()[i], f"{name}[{i}] has a share above the cut and was pruned"
    assert model_copy[0].weight.abs().sum() > 0


def test_lamp_empties_no_layer() -> None:
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 30), nn.Linear(30, 5))
    with torch.no_grad():
        model[1].weight.mul_(1e-8)
    assert not prune(model, methods.lamp(3 / (50 * 40 + 40 * 30 + 150))).empty


def test_magnitude_keeps_the_largest() -> None:
    model = nn.Linear(30, 10)
    before = model.weight.detach().abs()
    mask = prune(model, methods.magnitude(0.2))["weight"]
    assert before[mask].min() >= before[~mask].max()


def test_magnitude_schedule_must_end_where_asked() -> None:
    plan = schedule.cubic(0.2, begin=0, end=10, every=5)
    with pytest.raises(ValueError, match=r"`schedule` ends at density 0.2, got density=0.1"):
        methods.magnitude(0.1, schedule=plan)


# --- random baselines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "quota"), [(methods.erk(0.1), erk_densities), (methods.igq(0.1), igq_densities)], ids=["erk", "igq"]
)
def test_quota_baselines_have_exact_layer_counts_and_random_positions(plan, quota) -> None:
    model = nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 20), nn.Linear(20, 5))
    drawn = [prune(copy.deepcopy(model), plan, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    ideal = quota({name: mask.shape for name, mask in drawn[0].items()}, 0.1)
    for layers in zip(*(masks.layers() for masks in drawn), strict=True):
        assert len({layer.kept for layer in layers}) == 1
        assert abs(layers[0].kept - ideal[layers[0].name] * layers[0].numel) < 1
    assert drawn[0].kept == kept_count(0.1, drawn[0].numel)


def test_random_positions_are_uniform() -> None:
    """Over many draws every weight is kept equally often: a chi-square far inside its range."""
    model, hits, draws = nn.Linear(10, 10), torch.zeros(10, 10), 400
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        hits += prune(copy.deepcopy(model), methods.random(0.3), generator=generator)["weight"]
    expected = draws * 0.3
    chi_square = float(((hits - expected) ** 2 / (expected * 0.7)).sum())
    assert 60 < chi_square < 150  # 99 degrees of freedom: mean 99, standard deviation 14


def test_random_per_layer() -> None:
    model = nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 20))
    masks = prune(model, methods.random(0.25, scope=scope.layerwise()), generator=torch.Generator().manual_seed(0))
    assert [layer.kept for layer in masks.layers()] == [480, 150]
