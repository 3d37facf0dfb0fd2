"""Prices of whole units: the norm of each, as a loss term or as a proximal step that makes exact zeros of units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes.penalty import Penalty, Prox, Reach, SoftThreshold, check_strength
from secateur.axes.structure import Structure
from secateur.masks import layouts


@dataclass(frozen=True)
class GroupLasso:
    """λ Σ_g ‖w_g‖₂ over the units of a structure. Where a unit is zero, the gradient is zero too."""

    strength: float
    structure: Structure

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        return self.strength * torch.linalg.vector_norm(self.structure.split(weight), dim=1).sum()


@dataclass(frozen=True)
class Clamp:
    """w ← 0 where |w| < `below`: a gradient step never lands on zero, it only swings around it."""

    below: float

    def __call__(self, name: str, weight: Tensor, lr: float) -> Tensor:
        return torch.where(weight.abs() < self.below, torch.zeros_like(weight), weight)


@dataclass(frozen=True)
class Divided:
    """All prunable tensors pay, if the structure has units of each: else it says so, before anything is changed."""

    structure: Structure

    def __call__(self, network: nn.Module, params: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
        turned = layouts(network, params)
        for name, parameter in params.items():
            empty = torch.empty_like(parameter, device="meta")
            self.structure.split(turned[name].to_canonical(empty) if name in turned else empty)
        return params


def group_lasso(strength: float, structure: Structure, *, clamp: float = 0.0, reach: Reach | None = None) -> Penalty:
    """λ Σ_g ‖w_g‖₂ as a loss term, its gradient w_g/‖w_g‖; weights below `clamp` are zero after each step.

    >>> from secateur import structure
    >>> group_lasso(2.0, structure.filters()).term("w", torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor(10.)
    """
    check_strength(strength)
    check_strength(clamp, "clamp")
    prox: Prox | None = Clamp(clamp) if clamp else None
    name = f"group_lasso({strength:g}, {structure.name})"
    return Penalty(name, GroupLasso(strength, structure), prox, reach or Divided(structure))


@dataclass(frozen=True)
class GroupShrinkage:
    """w ← soft(w, ηλα), then each unit w_g ← [1 − ηλ(1 − α)√P/‖w_g‖₂]₊ w_g, P the entries of a unit."""

    strength: float
    structure: Structure
    alpha: float

    def __call__(self, name: str, weight: Tensor, lr: float) -> Tensor:
        weight = SoftThreshold(self.strength * self.alpha)(name, weight, lr)
        units = self.structure.split(weight)
        threshold = lr * self.strength * (1 - self.alpha) * math.sqrt(units.shape[1])
        norm = torch.linalg.vector_norm(units, dim=1)
        factor = torch.where(norm > threshold, 1 - threshold / norm, torch.zeros_like(norm))
        return weight * spread(factor, self.structure, weight)


def group_shrinkage(strength: float, structure: Structure, *, alpha: float = 0.0, every: int = 1) -> Penalty:
    """The proximal operator of λ((1 − α) Σ_g √P ‖w_g‖₂ + α‖w‖₁): `alpha` 0 is group lasso, 1 is L1.

    >>> from secateur import structure
    >>> shrunk = group_shrinkage(1.0, structure.filters()).prox("w", torch.tensor([[3.0, 4.0], [0.0, 0.1]]), 0.5)
    >>> [[round(float(value), 3) for value in row] for row in shrunk]
    [[2.576, 3.434], [0.0, 0.0]]
    """
    check_strength(strength)
    if not 0 <= alpha <= 1:
        raise SecateurError(f"`alpha` must be in [0, 1] (0: units alone, 1: single weights alone), got {alpha}.")
    name = f"group_shrinkage({strength:g}, {structure.name}, alpha={alpha:g})"
    return Penalty(name, prox=GroupShrinkage(strength, structure, alpha), reach=Divided(structure), every=every)


def spread(values: Tensor, structure: Structure, like: Tensor) -> Tensor:
    """One number per unit → one per entry. `split` moves entries about, and its derivative moves them back."""
    with torch.enable_grad():
        entries = torch.zeros_like(like, requires_grad=True)
        moved = (structure.split(entries).sum(1) * values).sum()
    return torch.autograd.grad(moved, entries)[0]
