"""SNIP-it, FORCE, Iter-SNIP, SynFlow: what holds from round to round."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from secateur import Masks, measures, methods, prune, schedule, scope, structure
from secateur.axes import Method, measured, method

Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def batch() -> Batch:
    return torch.randn(16, 12), torch.arange(16) % 3


def _prune(model: nn.Module, plan: Method, batch: Batch) -> Masks:
    return prune(copy.deepcopy(model), plan, [batch])


@pytest.mark.parametrize("one_round", [methods.force, methods.iter_snip], ids=lambda f: f.__name__)
def test_one_round_is_snip(one_round, mlp: nn.Module, batch: Batch) -> None:
    assert _prune(mlp, one_round(0.1, rounds=1), batch) == _prune(mlp, methods.snip(0.1), batch)


def test_snip_it_above_one_half_is_snip_in_eval_mode(mlp: nn.Module, batch: Batch) -> None:
    in_eval = methods.snip(0.6, evidence=measures.grad(train=False))
    assert _prune(mlp, methods.snip_it(0.6), batch) == _prune(mlp, in_eval, batch)


@pytest.mark.parametrize(
    "plan",
    [lambda d: methods.iter_snip(d, rounds=2), lambda d: methods.synflow(d, rounds=4)],
    ids=["iter_snip", "synflow"],
)
def test_rounds_are_nested(plan, mlp: nn.Module, batch: Batch) -> None:
    """The first half of a run with twice the rounds to ρ² is the run to ρ: so its mask contains the final one."""
    whole = plan(0.04)
    halfway = method(
        "halfway",
        whole.score,
        structure=structure.weights(),
        scope=scope.everywhere(),
        schedule=schedule.Schedule("first half", whole.schedule.milestones[: len(whole.schedule.milestones) // 2]),
    )
    early, late = _prune(mlp, halfway, batch), _prune(mlp, whole, batch)
    assert late.kept < early.kept and late & early == late


def test_iter_snip_scores_the_network_as_pruned_so_far(mlp: nn.Module, batch: Batch) -> None:
    two_rounds = _prune(mlp, methods.iter_snip(0.09, rounds=2), batch)
    by_hand = copy.deepcopy(mlp)
    first = prune(by_hand, methods.snip(0.3), [batch])
    second = prune(by_hand, methods.snip(0.09), [batch])  # zeroed weights score 0: they cannot return
    assert second & first == second and two_rounds == second


def test_force_can_revive_and_iter_snip_cannot() -> None:
    """Two paths; the first round cuts the one that matters once the other's competitor is gone."""
    torch.manual_seed(3)
    revived = False
    for seed in range(20):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        batch = (torch.randn(32, 8), torch.arange(32) % 3)
        densities = schedule.exponential(0.05, rounds=4)
        masks = []
        for count in range(1, 5):
            plan = methods.force(0.05, rounds=4)
            part = schedule.Schedule("part", densities.milestones[:count])
            masks.append(
                _prune(model, Method("force", plan.score, plan.structure, plan.scope, part, plan.regrow), batch)
            )
        assert [m.kept for m in masks] == [int(d * masks[0].numel + 0.5) for d in densities.densities]
        revived |= any(b & a != b for a, b in itertools.pairwise(masks))
    assert revived


def test_force_reaches_a_higher_sensitivity_of_the_pruned_network(batch: Batch) -> None:
    """Its objective: S = Σ over kept |θ ∇L(θ ⊙ c)|. Over several seeds FORCE beats one-shot SNIP."""

    def objective(model: nn.Module, masks: Masks) -> float:
        pruned = copy.deepcopy(model)
        masks.apply_(pruned)
        loss = nn.functional.cross_entropy(pruned(batch[0]), batch[1])
        weights = [pruned.get_parameter(name) for name in masks]
        return sum(
            float((w * g).detach().abs().sum())
            for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)
        )

    wins = 0
    for seed in range(10):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3))
        force, snip = (_prune(model, plan, batch) for plan in (methods.force(0.05, rounds=20), methods.snip(0.05)))
        wins += objective(model, force) >= objective(model, snip)
    assert wins >= 8


# --- SynFlow ---------------------------------------------------------------------------------------------------------


def test_flow_is_conserved_over_layers_and_through_units() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip
    from secateur import scores

    found = scores(net, methods.synflow(0.5), [torch.randn(1, 2, 8, 8)])
    totals = [float(tensor.sum()) for tensor in found.values()]
    assert totals == pytest.approx([totals[0]] * 4, rel=1e-12)
    # Per unit: what flows into a hidden neuron flows out of it; per channel, likewise.
    torch.testing.assert_close(found["6.weight"].sum(1), found["8.weight"].sum(0))
    torch.testing.assert_close(found["0.weight"].sum((1, 2, 3)), found["3.weight"].sum((0, 2, 3)))
    torch.testing.assert_close(found["3.weight"].sum((1, 2, 3)), found["6.weight"].sum(0).reshape(5, 4).sum(1))


def test_scaling_one_layer_scales_all_scores_and_keeps_the_mask(mlp: nn.Module, batch: Batch) -> None:
    scaled = copy.deepcopy(mlp)
    with torch.no_grad():
        scaled[2].weight.mul_(8)  # a power of two: exact in floating point
    assert _prune(mlp, methods.synflow(0.1), batch) == _prune(scaled, methods.synflow(0.1), batch)


@pytest.mark.parametrize("kept", [5, 8, 20])
def test_no_layer_is_emptied_down_to_one_weight_per_layer(kept: int) -> None:
    """Maximal critical compression (Theorem 3): where magnitude and one-shot SynFlow collapse, 100 rounds do not."""
    torch.manual_seed(0)
    net = nn.Sequential(*(m for i in range(5) for m in (nn.Linear(10 + 10 * (i % 2), 20 - 10 * (i % 2)), nn.ReLU())))
    size = sum(p.numel() for n, p in net.named_parameters() if "weight" in n)
    masks = prune(net, methods.synflow(kept / size), [torch.ones(1, 10)])
    assert masks.kept == kept and not masks.empty


def test_no_data_is_touched(mlp: nn.Module) -> None:
    nothing = torch.full((4, 12), float("nan"))
    assert prune(copy.deepcopy(mlp), methods.synflow(0.1), [nothing]) == prune(
        copy.deepcopy(mlp), methods.synflow(0.1), [torch.randn(9, 12)]
    )


def test_a_score_may_bind_its_own_measures() -> None:
    bound = measured(lambda weight, grad: weight * grad, {"grad": measures.grad_magnitude()})
    assert bound.needs is measures.Needs.LABELS
    with pytest.raises(TypeError, match="no argument 'gard'"):
        measured(lambda weight: weight, {"gard": measures.grad()})
