"""Small networks that leave for other runtimes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secateur.sparse import BreakEven, Machine

#: Break-evens by which every layer runs sparse, whatever is faster here.
ALWAYS_SPARSE = Machine("example", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.99),))


def convolutional() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    body = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 5)), (torch.randn(3, 2, 8, 8),)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(6, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


def recurrent() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(1)
    return Recurrent(), (torch.randn(2, 5, 6),)


def attending() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(2)
    return nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), (torch.randn(2, 4, 16),)


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "convolutional": convolutional,
    "recurrent": recurrent,
    "attending": attending,
}
