"""Soft masks on the outputs of layers and blocks, moved by FISTA, and folded into the weights at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Place:
    """Where a mask stands: a module's output, a number for each unit or one for all; the weight that makes it."""

    module: nn.Module
    weight: str
    units: int


def momentum(alpha: float) -> float:
    """FISTA's sequence: α ← (1 + √(1 + 4α²))/2.

    >>> [round(momentum(alpha), 3) for alpha in (1.0, 1.618)]
    [1.618, 2.193]
    """
    return (1 + math.sqrt(1 + 4 * alpha * alpha)) / 2


class SoftMasks:
    """m ≥ 0 for each place, all 1 at first, multiplied to its output while it is attached.

    FISTA: the gradient is taken at y, m ← max(y − η(∇ + λ), 0) is the proximal step of λ‖m‖₁ with m ≥ 0, and
    y ← m + (α − 1)/α′ · (m − m₋₁).
    """

    def __init__(self, places: Sequence[Place], like: Tensor) -> None:
        self.places, self.alpha = places, 1.0
        self.at = [torch.ones(place.units, device=like.device, dtype=like.dtype) for place in places]  # y
        self.values = [each.clone() for each in self.at]  # m
        for each in self.at:
            each.requires_grad_()
        self.handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Multiply outputs from now on."""
        for place, mask in zip(self.places, self.at, strict=True):
            self.handles.append(place.module.register_forward_hook(_multiplies(mask)))

    def detach(self) -> None:
        """Leave outputs alone again."""
        while self.handles:
            self.handles.pop().remove()

    @torch.no_grad()
    def step(self, rate: float, strength: float) -> None:
        """One step of FISTA by the gradients that lie at y, which are then forgotten."""
        following = momentum(self.alpha)
        for index, y in enumerate(self.at):
            slope = y.grad if y.grad is not None else torch.zeros_like(y)
            after = (y - rate * (slope + strength)).clamp(min=0)
            y.copy_(after + (self.alpha - 1) / following * (after - self.values[index]))
            self.values[index], y.grad = after, None
        self.alpha = following

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply m into the weights, or into the norms behind them: computes what the masked outputs did."""
        for place, m in zip(self.places, self.values, strict=True):
            weight, bias = place.module._parameters["weight"], place.module._parameters.get("bias")
            assert weight is not None
            weight.mul_(m if isinstance(place.module, _BatchNorm) else m.reshape(-1, *[1] * (weight.dim() - 1)))
            if bias is not None:
                bias.mul_(m)


def _multiplies(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def multiply(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        last = isinstance(module, nn.Linear)
        return output * (mask if last else mask.reshape(1, -1, *[1] * (output.dim() - 2)))

    return multiply
