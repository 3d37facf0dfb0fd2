"""Block influence against its definition, and what the method refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from secateur import SecateurError, methods, prune, scores
from secateur.axes.structure import residual_blocks
from secateur.coupling import residual_blocks as found_in


class Turn(nn.Module):
    """x + (R − 1) x, R a rotation of the plane."""

    def __init__(self, angle: float) -> None:
        super().__init__()
        self.branch = nn.Linear(2, 2, bias=False)
        turned = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        self.branch.weight.data.copy_(turned - torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def test_a_rotation_by_an_angle_has_the_influence_one_minus_its_cosine() -> None:
    angles = (0.3, 1.2, 2.0)
    net, x = nn.Sequential(*map(Turn, angles)), torch.randn(5, 7, 2)
    method = methods.depth(1 / 3, structure=residual_blocks(found_in(net, x)))
    found = scores(net, method, [x, torch.randn(3, 2, 2)])
    for k, angle in enumerate(angles):
        assert float(found[f"{k}.branch.weight"]) == pytest.approx(1 - math.cos(angle), abs=1e-6)
    with pytest.warns(UserWarning, match="lost all their weights"):
        masks = prune(net, method, [x])
    assert [bool(masks[f"{k}.branch.weight"].all()) for k in range(3)] == [False, False, True]


def test_of_convolutions_a_vector_is_the_channels_at_a_place() -> None:
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(self.one(x))

    net, x = nn.Sequential(Conv()), torch.randn(2, 3, 4, 5)
    method = methods.depth(1.0, structure=residual_blocks(found_in(net, x)))
    found = scores(net, method, [x])
    y = net(x).detach()
    rows = [(x[n, :, i, j], y[n, :, i, j]) for n in range(2) for i in range(4) for j in range(5)]
    wanted = sum(1 - float(a @ b / (a.norm() * b.norm())) for a, b in rows) / len(rows)
    assert float(found["0.one.weight"]) + float(found["0.two.weight"]) == pytest.approx(wanted, abs=1e-6)


def test_without_blocks_it_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(SecateurError, match=r"Residual blocks must be known.*or|has no residual block"):
        prune(net, methods.depth(0.5), [torch.randn(2, 3)])
