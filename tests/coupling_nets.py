"""Small nets of the usual shapes for coupling and shrinking: convolutions, recurrence, and the traps of real code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Case = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]


class Residual(nn.Module):
    """A block whose branch is added in place, as torchvision's are."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.Conv2d(width, width, 3, 1, 1)
        self.norm, self.last = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.down = nn.Conv2d(inputs, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.two(F.relu(self.norm(self.one(x)), inplace=True)))
        y += self.down(x)
        return F.relu_(y)


def residual() -> tuple[nn.Module, tuple[Tensor, ...]]:
    stem, head = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    return nn.Sequential(stem, Residual(8, 8, 1), Residual(8, 12, 2), head), (torch.randn(2, 3, 8, 8),)


class DenseConcat(nn.Module):
    """Every layer reads all before it."""

    def __init__(self, layers: int = 3, growth: int = 4) -> None:
        super().__init__()
        widths = [8 + k * growth for k in range(layers)]
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in widths)
        self.convs = nn.ModuleList(nn.Conv2d(n, growth, 3, padding=1) for n in widths)
        self.head = nn.Linear(8 + layers * growth, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            parts.append(conv(F.relu(norm(torch.cat(parts, 1)))))
        return self.head(torch.cat(parts, 1).mean((2, 3)))


def grouped() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Depthwise, general groups, transposed groups, and a gate of each channel."""
    body = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Hardswish()]
    body += [nn.Conv2d(16, 24, 3, 1, 1, groups=8), nn.BatchNorm2d(24), nn.ConvTranspose2d(24, 16, 2, 2, groups=8)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)), (torch.randn(2, 3, 8, 8),)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.squeeze, self.excite = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(y.amax((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.join, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        high = self.down(x).relu()
        low = F.interpolate(self.up(self.low(high).relu()), scale_factor=1.0, mode="bilinear")
        return {"mask": self.out(self.join(torch.cat([high, low], 1)).relu())}


class Shuffle(nn.Module):
    """ShuffleNet's unit: half passes, half is worked on, then channels are shuffled by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            nn.Conv2d(half, half, 1), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, half, 3, 1, 1, groups=half)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, 1)
        x = torch.cat((kept, self.body(worked)), 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def shuffled() -> tuple[nn.Module, tuple[Tensor, ...]]:
    body = [nn.Conv2d(3, 16, 3), Shuffle(16), Shuffle(16), nn.Conv2d(16, 12, 1), nn.ReLU(), nn.ChannelShuffle(4)]
    return nn.Sequential(*body, nn.Conv2d(12, 4, 1), nn.Flatten(2)), (torch.randn(2, 3, 6, 6),)


def pixels() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Group norm, channels that become space and come back, a slope for each channel."""
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.PixelShuffle(2)]
    body += [nn.Conv2d(4, 6, 1), nn.PReLU(6), nn.PixelUnshuffle(2), nn.Conv2d(24, 4, 1)]
    return nn.Sequential(*body), (torch.randn(2, 3, 6, 6),)


class Recurrent(nn.Module):
    """Two layers in both directions, read at the last step."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 8, **options: int) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.layers = kind(6, width, 2, bidirectional=True, batch_first=True, **options)
        self.head = nn.Linear(2 * options.get("proj_size", width), 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.layers(F.relu(self.first(x)))
        return self.head(out[:, -1])


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.head = nn.Linear(5, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([4, 3], device="cpu")
        out, (last, _) = self.layer(pack_padded_sequence(self.first(x), lengths, batch_first=True))
        padded, _ = pad_packed_sequence(out, batch_first=True)
        return self.head(padded) + self.head(last[-1])[:, None]


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.one, self.two, self.head = nn.LSTMCell(5, 8), nn.GRUCell(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.width)
        g = torch.zeros(x.shape[0], 6, dtype=x.dtype, device=x.device)
        for step in x.unbind(1):
            h, c = self.one(step, (h, c))
            g = self.two(h, g)
        return self.head(g)


class Experts(nn.Module):
    """A mixture of experts: each sees all tokens, a router weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.router, self.head = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 8)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        y = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            y = y + expert(x) * ((chosen == k) * weights).sum(-1, keepdim=True)
        return self.head(x + y)


class Tricks(nn.Module):
    """A module called twice, a gate, a strided slice, a bare parameter, a literal view, an index, an assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.gate = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 16)
        self.literal, self.head, self.scale = nn.Linear(8, 24), nn.Linear(12, 4), nn.Parameter(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.twice(self.first(x) * self.scale))))
        x = self.literal(F.glu(self.gate(x), -1))
        x = x.view(x.shape[0], 4, 6).flip(1).flatten(1)
        y = x.new_zeros(x.shape[0], 12)
        y[:, :] = x[:, ::2]
        return self.head(y)


def alone(kind: Callable[..., nn.Module], *shape: int, **options: int) -> Case:
    return lambda: (kind(**options), (torch.randn(*shape),))


CASES: dict[str, Case] = {
    "residual": residual,
    "dense_concat": alone(DenseConcat, 2, 3, 6, 6),
    "grouped": grouped,
    "squeeze_excite": alone(SqueezeExcite, 2, 3, 6, 6),
    "unet": alone(UNet, 2, 3, 8, 8),
    "shuffled": shuffled,
    "pixels": pixels,
    "lstm": lambda: (Recurrent(nn.LSTM), (torch.randn(2, 4, 5),)),
    "gru": lambda: (Recurrent(nn.GRU), (torch.randn(2, 4, 5),)),
    "projected": lambda: (Recurrent(nn.LSTM, proj_size=4), (torch.randn(2, 4, 5),)),
    "packed": alone(Packed, 2, 4, 5),
    "cells": alone(Cells, 2, 3, 5),
    "experts": alone(Experts, 2, 4, 5),
    "tricks": alone(Tricks, 2, 8),
}
