"""Prices of single weights as loss terms: bounded, so that large weights go free, or of small weights alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes.penalty import Penalty, check_strength


@dataclass(frozen=True)
class Elimination:
    """λ Σ (w/w₀)²/(1 + (w/w₀)²): counts the weights that are larger than w₀, softly."""

    strength: float
    scale: float

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        x = (weight / self.scale).square()
        return self.strength * (x / (1 + x)).sum()


def elimination(strength: float, *, scale: float) -> Penalty:
    """λ Σ (w/w₀)²/(1 + (w/w₀)²), w₀ the `scale`: weight decay for small weights, a fixed price for large ones.

    >>> elimination(1.0, scale=0.1).term("w", torch.tensor([0.1, 1e6]))
    tensor(1.5000)
    """
    check_strength(strength)
    if not 0 < scale < torch.inf:
        raise SecateurError(f"`scale` must be above 0 and finite, got {scale}.")
    return Penalty(f"elimination({strength:g}, scale={scale:g})", Elimination(strength, scale))


@dataclass(frozen=True)
class Forgotten:
    """ε Σ |w| over the weights with |w| < θ: the others are not forgotten."""

    strength: float
    below: float

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        size = weight.abs()
        return self.strength * (size * (size.detach() < self.below)).sum()


def forgotten(strength: float, *, below: float = torch.inf) -> Penalty:
    """ε Σ_{|w| < θ} |w|, θ being `below`: a constant decay of all weights, or of the small ones alone.

    >>> forgotten(0.5, below=1.0).term("w", torch.tensor([0.5, -0.5, 2.0]))
    tensor(0.5000)
    """
    check_strength(strength)
    if not below > 0:
        raise SecateurError(f"`below` must be above 0, got {below}: no weight is smaller than that.")
    return Penalty(f"forgotten({strength:g}, below={below:g})", Forgotten(strength, below))
