"""Where scores do not say which weights stay, it is said or refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur import Method, Pruner, Schedule, invert, method, methods, prune, schedule, scope, structure
from secateur._base.errors import EmptyLayerWarning, ScoreError, TiedScoresWarning

X, Y = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def dead_inputs(count: int) -> torch.Tensor:
    """Inputs of which the first `count` are always 0, like the border of MNIST's images."""
    x = X.clone()
    x[:, :count] = 0
    return x


def test_a_cut_through_zeros_says_how_many_and_where() -> None:
    plan = methods.snip(0.75, scope=scope.layerwise())  # 384 of 512; 256 score 0
    with pytest.warns(TiedScoresWarning, match=r"128 of 256 units .* \(0\) were kept.*0\.weight \(128 of 256\)"):
        masks = prune(mlp(), plan, [(dead_inputs(8), Y)])
    assert masks["0.weight"].sum() == 384 and masks["0.weight"][:, 8:].all()


@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_no_word_where_the_scores_decide(density: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", TiedScoresWarning)
        plan = methods.snip(density, scope=scope.layerwise())
        prune(mlp(), plan, [(dead_inputs(8), Y)])  # at 0.5 every living weight stays and every dead one goes


def test_a_head_of_zeros_leaves_its_body_to_the_index() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.warns(TiedScoresWarning, match=r"102 of 512 units .*0\.weight"):
        prune(model, by_gradient(0.2), [(X, Y)])


def by_gradient(density: float, plan: Schedule | None = None) -> Method:
    """|g|, layer by layer: a head of zeros has scores, and the body behind it has none."""
    plan = plan or schedule.once(density)
    units, pools = structure.weights(), scope.layerwise()
    return method("by_gradient", lambda grad: grad.abs(), structure=units, scope=pools, schedule=plan)


def test_a_fresh_adapter_is_named() -> None:
    class Adapted(nn.Module):
        """LoRA: W + B A, B at zero, so no gradient reaches A."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.base, self.down, self.up = nn.Linear(16, 4), nn.Linear(16, 8, bias=False), nn.Linear(8, 4, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.up(self.down(x))

    plan = methods.snip(0.5, scope=scope.layerwise())
    with pytest.warns(TiedScoresWarning, match=r"down\.weight \(64 of 128\), up\.weight \(16 of 32\)"):
        prune(Adapted(), plan, [(X, Y)])
    with pytest.warns(EmptyLayerWarning, match=r"down\.weight, up\.weight"):  # one ranking: they go first
        prune(Adapted(), methods.snip(0.2), [(X, Y)])


@pytest.mark.parametrize("plan", [methods.snip(0.3), methods.grasp(0.3), methods.iter_snip(0.3, rounds=3)], ids=str)
def test_scores_that_tell_nothing_are_refused_and_nothing_is_written(plan) -> None:
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ScoreError, match=r"All scores are equal \(0\)"):
        prune(model, plan, [(X, Y)], loss=lambda output, target: (output * 0).sum())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_equal_weights_are_no_error_but_said() -> None:
    """A magnitude is what it is: a layer of ones may be cut anywhere."""
    model = nn.Linear(8, 4)
    nn.init.ones_(model.weight)
    with pytest.warns(TiedScoresWarning, match=r"16 of 32 units that share the lowest score of their layer \(1\)"):
        assert prune(model, methods.magnitude(0.5)).kept == 16


def test_units_and_rows_are_looked_at_as_such() -> None:
    model = nn.Linear(8, 6)
    with torch.no_grad():
        model.weight[:4] = 0
    with pytest.warns(TiedScoresWarning, match=r"1 of 4 units .*weight \(1 of 4\)"):
        prune(model, methods.magnitude(0.5, structure=structure.filters()))
    with pytest.warns(TiedScoresWarning, match=r"16 of 32 units"):
        prune(model, methods.magnitude(0.5, scope=scope.per_row()))
    with pytest.warns(TiedScoresWarning):
        prune(model, invert(methods.magnitude(0.2, scope=scope.layerwise())))


def test_only_the_last_round_speaks_and_training_does_too() -> None:
    plan = schedule.linear(0.25, rounds=3, begin=1, every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TiedScoresWarning)
        prune(mlp(), by_gradient(0.25, plan), [(dead_inputs(8), Y)])  # the first round cuts through zeros
    model = mlp()
    pruner = Pruner(model, by_gradient(0.75, schedule.once(0.75, at=1)))
    F.cross_entropy(model(dead_inputs(8)), Y).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(TiedScoresWarning, match=r"128 of 256"):
        optimizer.step()
    pruner.finish()
