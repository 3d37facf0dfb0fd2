"""What the tests of pruning before training share: small perceptrons in float64, batches, a measure's evidence."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur import gather, prunable
from secateur.measures import Measure


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


def measured(model: nn.Module, measure: Measure, data: list[tuple[Tensor, Tensor]], seed: int = 0) -> dict[str, Tensor]:
    found = gather(model, data, [measure], params=prunable(model), generator=torch.Generator().manual_seed(seed))
    return dict(found[measure.name])
