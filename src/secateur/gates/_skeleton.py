"""A learned skeleton of each filter, whose thin bones break for good (pruning filters in filters)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate


class Skeleton(Gate):
    """w ⊙ I, one entry of I for each stripe: a position of a filter's kernel, over all its inputs; I begins at 1.

    α‖I‖₁ joins the loss; where |I| ≤ δ after a step the stripe is dead, and stays so. A matrix has one stripe a row.
    """

    alive: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Skeletons) -> None:
        super().__init__()
        self.settings = settings
        shape = [len(parameter), *[1] * min(1, parameter.dim() - 1), *parameter.shape[2:]]
        self.bones = nn.Parameter(torch.ones(shape))
        self.register_buffer("alive", torch.ones(shape, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.bones * self.alive)

    def penalty(self, weight: Tensor) -> Tensor:
        return self.settings.strength * (self.bones * self.alive).abs().sum()

    def keep(self, weight: Tensor) -> Tensor:
        return self.alive

    def after_step(self, weight: Tensor, lr: float) -> None:
        self.alive &= self.bones.abs() > self.settings.threshold
        self.bones.mul_(self.alive)  # a momentum of its former life would move it


@dataclass(frozen=True)
class Skeletons:
    """Puts a `Skeleton` on every weight."""

    strength: float
    threshold: float

    def __call__(self, name: str, parameter: nn.Parameter) -> Skeleton:
        return Skeleton(parameter, self)


def skeletons(*, strength: float, threshold: float) -> Skeletons:
    """Skeletons at the price α = `strength`, broken at δ = `threshold`: see `methods.filter_skeleton`."""
    if not 0 < threshold < 1:
        raise SecateurError(
            f"`threshold` must lie between 0 and 1, from where the skeleton starts, got {threshold}: at 0 nothing "
            "would ever be cut, at 1 everything after the first step. The authors' is 0.01."
        )
    if not 0 <= strength < math.inf:
        raise SecateurError(f"`strength` must be at least 0 and finite, got {strength}.")
    return Skeletons(strength, threshold)
