"""Layouts: layers that store their inputs first are pruned along the same sides as those that do not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import Method, Pruner, methods, prune, schedule
from secateur import scope as scopes
from secateur import structure as structures
from secateur.axes.scope import Scope
from secateur.axes.structure import Structure
from secateur.masks import Layout, layouts


class Conv1D(nn.Module):
    """As in transformers: y = x W + b, W [inputs, outputs]."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def _twins() -> list[tuple[nn.Module, nn.Module]]:
    """A transposed layer, and a plain one with the same weight between each input and output."""
    gpt, linear = Conv1D(12, 8), nn.Linear(8, 12)
    linear.weight.data = gpt.weight.data.t().clone()
    pairs: list[tuple[nn.Module, nn.Module]] = [(gpt, linear)]
    for kind, plain, window in (
        (nn.ConvTranspose1d, nn.Conv1d, (3,)),
        (nn.ConvTranspose2d, nn.Conv2d, (3, 2)),
        (nn.ConvTranspose3d, nn.Conv3d, (1, 2, 3)),
    ):
        for groups in (1, 2):
            up, conv = kind(8, 12, window, groups=groups), plain(8, 12, window, groups=groups)
            for o in range(12):
                group = o // (12 // groups)
                for i in range(8 // groups):
                    conv.weight.data[o, i] = up.weight.data[group * (8 // groups) + i, o % (12 // groups)]
            pairs.append((up, conv))
    return pairs


TWINS = _twins()
PLANS: list[tuple[Structure, Scope, float]] = [
    (structures.weights(), scopes.per_row(), 0.25),
    (structures.weights(), scopes.n_of_m(2, 4), 0.5),
    (structures.weights(), scopes.everywhere(), 0.3),
    (structures.weights(), scopes.erk(), 0.3),
    (structures.filters(), scopes.everywhere(), 0.5),
    (structures.columns(), scopes.everywhere(), 0.5),
    (structures.kernels(), scopes.everywhere(), 0.5),
    (structures.stripes(), scopes.everywhere(), 0.5),
    (structures.blocks(4, 3), scopes.everywhere(), 0.5),
    (structures.heads(4), scopes.everywhere(), 0.5),
]


def _magnitude(structure: Structure, scope: Scope, density: float, rounds: int = 1) -> Method:
    plan = schedule.exponential(density, rounds=rounds)
    return methods.magnitude(density, structure=structure, scope=scope, schedule=plan)


@pytest.mark.parametrize("twins", TWINS, ids=lambda pair: str(pair[0]))
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan[0].name}-{plan[1].name}")
def test_a_transposed_layer_is_pruned_like_its_twin(
    plan: tuple[Structure, Scope, float], twins: tuple[nn.Module, nn.Module]
) -> None:
    up, plain = copy.deepcopy(twins)
    rounds = 1 if plan[1] == scopes.n_of_m(2, 4) else 2  # the second round has pruned units to keep pruned
    mask, expected = (prune(m, _magnitude(*plan, rounds=rounds))["weight"] for m in (up, plain))
    assert mask.shape == up.weight.shape and mask.is_contiguous()
    layout = layouts(up)["weight"]
    assert torch.equal(layout.to_canonical(mask), expected)
    assert torch.equal(layout.from_canonical(expected), mask)


@pytest.mark.parametrize("groups", [1, 2])
def test_whole_output_channels_of_a_transposed_convolution_die(groups: int) -> None:
    up = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    prune(up, _magnitude(structures.filters(), scopes.everywhere(), 0.5))
    out = up(torch.randn(2, 4, 5, 5))
    assert [bool((out[:, o] != 0).any()) for o in range(6)].count(True) == 3


def test_rows_lie_along_the_inputs_while_training_too() -> None:
    model = nn.Sequential(Conv1D(12, 8))
    plan = schedule.once(0.25, at=1)
    pruner = Pruner(model, methods.magnitude(0.25, scope=scopes.per_row(), schedule=plan))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    assert (pruner.finish()["0.weight"].sum(0) == 2).all()  # each output keeps 2 of its 8 inputs


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Conv2d(8, 4, 3), nn.ConvTranspose2d(4, 8, 3)
        self.decode.weight = self.encode.weight  # [4, 8, 3, 3] both


def test_layouts_are_found_on_the_module_a_tensor_is_named_after() -> None:
    assert layouts(_Tied()) == {}
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Conv1D(2, 3)), nn.ConvTranspose1d(2, 4, 3, groups=2))
    expected = {"1.0.weight": Layout(), "2.weight": Layout(groups=2)}
    assert layouts(model) == layouts(nn.DataParallel(model)) == expected
    assert layouts(model, ["0.weight", "2.weight"]) == {"2.weight": Layout(groups=2)}


def test_one_group_is_turned_without_a_copy() -> None:
    weight = torch.randn(4, 6, 3)
    assert Layout().to_canonical(weight).data_ptr() == weight.data_ptr()
