"""Filter skeletons: nothing at first, a price, stripes that die for good, and a fold into 1×1 pieces."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate_cases import gates
from secateur import Pruner, SecateurError, methods


def _conv() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).double()


def _images() -> Tensor:
    return torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_begins_as_the_plain_layer_with_one_bone_for_each_stripe() -> None:
    model = _conv()
    plain = copy.deepcopy(model)
    Pruner(model, methods.filter_skeleton())
    (gate,) = gates(model).values()
    assert gate.bones.shape == (4, 1, 3, 3) and torch.equal(model(_images()), plain(_images()))


def test_one_step_by_hand() -> None:
    model = _conv()
    plain = copy.deepcopy(model)[0]
    Pruner(model, methods.filter_skeleton(strength=0.02))
    (gate,), optimizer = gates(model).values(), torch.optim.SGD(model.parameters(), lr=0.1)
    model(_images()).square().mean().backward()
    optimizer.step()
    plain(_images()).square().mean().backward()
    weight, slope = plain.weight.detach(), plain.weight.grad
    torch.testing.assert_close(gate.bones.detach(), 1 - 0.1 * ((weight * slope).sum(1, keepdim=True) + 0.02))
    torch.testing.assert_close(model[0].weight.detach(), weight - 0.1 * slope)


def test_thin_bones_break_for_good_and_the_deployed_stripes_are_shifted_1x1_convolutions() -> None:
    model = _conv()
    pruner = Pruner(model, methods.filter_skeleton(threshold=0.3))
    (gate,) = gates(model).values()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with torch.no_grad():
        gate.bones[:, 0, 0, 1] = 0.2
        gate.bones[1] = -0.1
        gate.bones[2, 0, 2, 2] = -0.9
    dead = gate.bones.detach().abs() <= 0.3
    for _ in range(4):
        optimizer.zero_grad()
        (model(_images()) * torch.linspace(-1, 1, 4).reshape(1, 4, 1, 1)).sum().backward()
        optimizer.step()
        assert torch.equal(gate.alive, ~dead) and bool((gate.bones[dead] == 0).all())
    output = model(_images()).detach()
    masks = pruner.finish()
    torch.testing.assert_close(model(_images()).detach(), output)
    assert torch.equal(masks["0.weight"], (~dead).expand(4, 3, 3, 3)) and masks.kept == 3 * int((~dead).sum())
    padded, total = F.pad(_images(), (1, 1, 1, 1)), model[0].bias.detach().reshape(1, 4, 1, 1)
    for i in range(3):
        for j in range(3):
            stripe = model[0].weight.detach()[:, :, i : i + 1, j : j + 1]
            total = total + F.conv2d(padded[:, :, i : i + 6, j : j + 6], stripe)
    torch.testing.assert_close(total, output)


def test_a_matrix_has_a_bone_for_each_output() -> None:
    model = nn.Sequential(nn.Linear(5, 7))
    Pruner(model, methods.filter_skeleton())
    (gate,) = gates(model).values()
    assert gate.bones.shape == (7, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"threshold": 0.0}, "at 0 nothing"), ({"threshold": 1.0}, "between 0 and 1"), ({"strength": -1.0}, "at least 0")],
)
def test_what_cannot_work_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        methods.filter_skeleton(**options)
