"""Weights and activations of one bit each, by straight-through estimates (BNN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.axes import Gate
from secateur.gates.straight._through import through


def sign(values: Tensor) -> Tensor:
    """Return +1 where a value is 0 or more, −1 elsewhere: never 0, in the values' dtype."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


class Binary(Gate):
    """sign(w) forward, with sign(0) = +1; ∂L/∂w = ∂L/∂sign(w); after each step w is clipped to [−1, 1].

    Weights that are zero when the gate is put up are pruned and stay so: what is left is ternary.
    """

    mask: Tensor

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.register_buffer("mask", parameter.detach() != 0)

    def forward(self, weight: Tensor) -> Tensor:
        return through(sign(weight.detach()), weight) * self.mask

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask

    def after_step(self, weight: Tensor, lr: float) -> None:
        weight.clamp_(-1, 1)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return sign(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return grads[0] * (values.abs() <= 1)


class BinaryActivation(nn.Module):
    """sign(x) forward, with sign(0) = +1; backward the gradient where |x| ≤ 1, and 0 elsewhere.

    Takes the place of a ReLU behind a batch norm in a network whose weights are `methods.binarise`d.

    Source: Courbariaux et al., arXiv 1602.02830.

    >>> BinaryActivation()(torch.tensor([-0.5, 0.0, 3.0])).tolist()
    [-1.0, 1.0, 1.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        return _Sign.apply(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Binaries:
    """Puts a `Binary` on every weight."""

    def __call__(self, name: str, parameter: nn.Parameter) -> Binary:
        return Binary(parameter)


def binaries() -> Binaries:
    """Weights of one bit: see `methods.binarise`."""
    return Binaries()
