"""Small images and a training step, for the tests of methods that act on the scales of batch norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def batch(number: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(number)
    return torch.randn(12, 1, 8, 8, dtype=torch.float64, generator=drawn), torch.arange(12) % 3


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(batch(number)[0]), batch(number)[1]).backward()
    optimizer.step()
