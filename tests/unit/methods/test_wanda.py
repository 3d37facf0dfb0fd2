"""Wanda against a plain reading of its formula, mask for mask, ties included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import methods, prune, schedule, scope
from transformer_cases import Conv1D


def _reference(weight: Tensor, inputs: Tensor, keep: int) -> Tensor:
    """[out, in] and [in, samples] → what stays: in each row the `keep` largest |w|·‖x‖, of equal ones the first."""
    norms = [float(sum(float(v) ** 2 for v in row) ** 0.5) for row in inputs]
    bits = torch.zeros_like(weight, dtype=torch.bool)
    for row, values in enumerate(weight):
        worth = [abs(float(value)) * norm for value, norm in zip(values, norms, strict=True)]
        bits[row, sorted(range(len(worth)), key=lambda j: -worth[j])[:keep]] = True
    return bits


def test_masks_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(9, 5).double(), torch.randn(3, 7, 9, dtype=torch.float64)
    wanted = _reference(layer.weight.detach(), x.flatten(0, 1).T, 4)
    assert torch.equal(prune(layer, methods.wanda(4 / 9), [x[:1], x[1:]])["weight"], wanted)


@pytest.mark.filterwarnings("ignore::secateur.TiedScoresWarning")
def test_of_equal_scores_the_first_stay() -> None:
    layer, x = nn.Linear(6, 3, bias=False), torch.eye(6)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1, 1, 1, -1, 1], [2, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 3]]))
    wanted = _reference(layer.weight.detach(), x, 3)
    assert wanted.int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0], [1, 1, 0, 0, 0, 1]]
    assert torch.equal(prune(layer, methods.wanda(0.5), [x])["weight"], wanted)


def test_two_of_four() -> None:
    torch.manual_seed(1)
    layer, x = nn.Linear(12, 4).double(), torch.randn(20, 12, dtype=torch.float64)
    groups = layer.weight.detach().reshape(12, 4)
    wanted = torch.cat(
        [
            _reference(groups[3 * row + place, None], x.T[4 * place : 4 * place + 4], 2)
            for row in range(4)
            for place in range(3)
        ]
    )
    masks = prune(layer, methods.wanda(0.5, scope=scope.n_of_m(2, 4)), [x])
    assert torch.equal(masks["weight"], wanted.reshape(4, 12))


def test_a_transposed_layer_keeps_the_same_of_each_output() -> None:
    torch.manual_seed(2)
    plain, x = nn.Linear(8, 8), torch.randn(30, 8) * torch.arange(1.0, 9.0)
    turned = Conv1D(8, 8)
    with torch.no_grad():
        turned.weight.copy_(plain.weight.T)
    wanted = prune(plain, methods.wanda(0.5), [x])["weight"]
    assert torch.equal(prune(turned, methods.wanda(0.5), [x])["weight"], wanted.T)
    assert (wanted.sum(1) == 4).all() and not (wanted.sum(0) == 4).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_seen_by_its_patches(groups: int) -> None:
    torch.manual_seed(3)
    layer, x = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups).double(), torch.randn(2, 4, 7, 7).double()
    patches = F.unfold(x, 3, stride=2, padding=1).movedim(1, 0).flatten(1).reshape(groups, 36 // groups, -1)
    rows = layer.weight.detach().flatten(1).reshape(groups, 6 // groups, -1)
    wanted = torch.cat([_reference(own, seen, 18 // groups) for own, seen in zip(rows, patches, strict=True)])
    assert torch.equal(prune(layer, methods.wanda(0.5), [x])["weight"].flatten(1), wanted)


def test_inputs_of_one_size_leave_magnitude_and_rows_may_be_scaled() -> None:
    torch.manual_seed(4)
    layer = nn.Linear(10, 6)
    largest = layer.weight.abs().argsort(1, descending=True)[:, :5]
    wanted = torch.zeros(6, 10, dtype=torch.bool).scatter_(1, largest, True)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(6, 1) + 0.1)
    assert torch.equal(prune(layer, methods.wanda(0.5), [3 * torch.eye(10)])["weight"], wanted)


def test_a_schedule_ends_where_the_method_does() -> None:
    with pytest.raises(ValueError, match=r"`schedule` ends at density 0\.3"):
        methods.wanda(0.5, schedule=schedule.once(0.3))
