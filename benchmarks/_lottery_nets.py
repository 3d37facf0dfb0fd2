"""What the trained parts of the lottery study share: the images, one short training, and the networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.lab import data

BATCH = 60


class Set:
    """MNIST, loaded once."""

    found: data.Dataset | None = None

    @classmethod
    def get(cls) -> data.Dataset:
        cls.found = cls.found or data.load("mnist", seed=0, validation=0.0)
        return cls.found


def batch_at(seed: int, step: int) -> tuple[Tensor, Tensor]:
    return data.batch_at(Set.get().train, BATCH, seed=seed, step=step)


def train(model: nn.Module, seed: int, steps: int, rate: float = 1.2e-3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        x, y = batch_at(seed, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@torch.no_grad()
def error(model: nn.Module) -> float:
    model.eval()
    test = Set.get().test
    wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y in data.in_order(test, 1000))
    model.train()
    return 100 * wrong / len(test)


class Block(nn.Module):
    """x + F(x)/√L, or x + F(x)."""

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.linear, self.share = nn.Linear(width, width), share

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * self.linear(torch.relu(x))


def lenet_5() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def drawn(model: nn.Module, seed: int) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight, generator=g)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return model


def lenet_300(seed: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU())
    return drawn(model.append(nn.Linear(100, 10)), seed)
