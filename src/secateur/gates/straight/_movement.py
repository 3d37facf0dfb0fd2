"""Scores that learn which weights move away from zero: a scope chooses among them, or a threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.gates.straight._through import through


class Movement(Gate):
    """w ⊙ M, M chosen among the scores S; ∂L/∂S = ∂L/∂(w ⊙ M) ⊙ w, as if M were S."""

    options: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}
    mask: Tensor

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros_like(parameter.detach()))
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * through(self.mask.to(weight.dtype), self.scores)

    def worth(self, weight: Tensor) -> Tensor:
        return self.scores.detach()

    def admit(self, mask: Tensor) -> None:
        self.mask.copy_(mask)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask


class SoftMovement(Movement):
    """The same, with M = 1 where σ(S) > τ: τ rises on a cubic, and λ·Σσ(S) pulls the scores down."""

    steps: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Thresholds) -> None:
        super().__init__(parameter)
        self.settings = settings
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def penalty(self, weight: Tensor) -> Tensor:
        return self.settings.strength * torch.sigmoid(self.scores).sum()

    def after_step(self, weight: Tensor, lr: float) -> None:
        self.steps += 1
        left = 1 - min(1.0, int(self.steps) / self.settings.end)
        self.mask.copy_(torch.sigmoid(self.scores) > self.settings.threshold * (1 - left**3))


@dataclass(frozen=True)
class Movements:
    """Puts a `Movement` on every weight."""

    def __call__(self, name: str, parameter: nn.Parameter) -> Movement:
        return Movement(parameter)


@dataclass(frozen=True)
class Thresholds:
    """Puts a `SoftMovement` on every weight."""

    threshold: float
    end: int
    strength: float

    def __call__(self, name: str, parameter: nn.Parameter) -> SoftMovement:
        return SoftMovement(parameter, self)


def moving() -> Movements:
    """Scores among which the scope chooses at each milestone: see `methods.movement`."""
    return Movements()


def moving_above(threshold: float, *, end: int, strength: float) -> Thresholds:
    """Scores that must stay above a threshold, full from step `end` on: see `methods.soft_movement`."""
    if not 0 < threshold < 1:
        raise SecateurError(
            f"`threshold` is compared with σ(S), so it must lie between 0 and 1, got {threshold}. The paper's is 0.1; "
            "scores begin at σ(0) = 0.5."
        )
    if end < 1 or not 0 <= strength < math.inf:
        raise SecateurError(f"soft movement needs end >= 1 and strength >= 0, got end={end} and strength={strength}.")
    return Thresholds(threshold, end, strength)
