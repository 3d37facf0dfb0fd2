"""A continuous mask that shrinks under an L1 price until the largest entries are chosen (ESPN)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate


class ShrinkingMask(Gate):
    """w ⊙ m, m from 1 on, at the price α‖m‖₁; when the scope has chosen by |m| it folds, and what stays trains on."""

    options: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}
    retires: ClassVar[bool] = True
    mask: Tensor

    def __init__(self, parameter: nn.Parameter, *, strength: float) -> None:
        super().__init__()
        self._strength = strength
        self.m = nn.Parameter(torch.ones_like(parameter.detach()))
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.m * self.mask)

    def penalty(self, weight: Tensor) -> Tensor:
        return self._strength * self.m.abs().sum()

    def worth(self, weight: Tensor) -> Tensor:
        return self.m.detach().abs()

    def admit(self, mask: Tensor) -> None:
        self.mask.copy_(mask)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask


@dataclass(frozen=True)
class ShrinkingMasks:
    """Puts a `ShrinkingMask` on every weight."""

    strength: float

    def __call__(self, name: str, parameter: nn.Parameter) -> ShrinkingMask:
        return ShrinkingMask(parameter, strength=self.strength)


def shrinking_masks(strength: float) -> ShrinkingMasks:
    """Continuous masks at the price α = `strength`: see `methods.espn`."""
    if not 0 <= strength < math.inf:
        raise SecateurError(f"`strength` must be at least 0 and finite, got {strength}.")
    return ShrinkingMasks(strength)
