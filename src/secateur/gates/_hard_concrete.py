"""Hard concrete gates: stochastic, differentiable, and exactly zero or one with some probability (L0)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


class HardConcrete(Gate):
    """z = clip(s(ζ − γ) + γ, 0, 1), s a binary concrete of location log α: one z per input, or per filter.

    Of a matrix the gates stand on its inputs, of a kernel on its first dimension: the filters of a convolution, the
    inputs of a transposed one. log α is drawn from torch's global generator, as initial weights are.
    """

    options: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}

    def __init__(self, parameter: nn.Parameter, *, strength: float, open_at_start: float) -> None:
        super().__init__()
        # Per input of a matrix, per filter of a convolution, as the authors have it.
        shape = [1, parameter.shape[1]] if parameter.dim() == 2 else [len(parameter), *[1] * (parameter.dim() - 1)]
        self._cost = strength * parameter.numel() / math.prod(shape)  # of one open gate: λ × the weights behind it
        start = math.log(open_at_start / (1 - open_at_start))
        self.log_alpha = nn.Parameter(torch.full(shape, start) + 0.01 * torch.randn(shape))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * self.opening(torch.sigmoid(self.log_alpha))
        u = torch.empty_like(self.log_alpha).uniform_(1e-6, 1 - 1e-6)
        return weight * self.opening(torch.sigmoid((u.log() - (1 - u).log() + self.log_alpha) / BETA))

    def opening(self, s: Tensor) -> Tensor:
        """z of a binary concrete value s: stretched to (γ, ζ) and clipped to [0, 1]."""
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def chance(self) -> Tensor:
        """P(z ≠ 0) of each gate."""
        return torch.sigmoid(self.log_alpha - BETA * math.log(-GAMMA / ZETA))

    def penalty(self, weight: Tensor) -> Tensor:
        return self._cost * self.chance().sum()

    def keep(self, weight: Tensor) -> Tensor:
        return self.opening(torch.sigmoid(self.log_alpha)) > 0

    def after_step(self, weight: Tensor, lr: float) -> None:
        self.log_alpha.clamp_(-math.log(100), math.log(100))


@dataclass(frozen=True)
class HardConcretes:
    """Puts a `HardConcrete` on every weight."""

    strength: float
    open_at_start: float

    def __call__(self, name: str, parameter: nn.Parameter) -> HardConcrete:
        return HardConcrete(parameter, strength=self.strength, open_at_start=self.open_at_start)


def hard_concrete(*, strength: float, open_at_start: float) -> HardConcretes:
    """Hard concrete gates whose penalty is `strength` for each weight behind an open gate: see `methods.l0`."""
    if not (0 < open_at_start < 1 and strength >= 0):
        raise SecateurError(
            "hard_concrete needs 0 < open_at_start < 1 and strength >= 0, got "
            f"open_at_start={open_at_start} and strength={strength}."
        )
    return HardConcretes(strength, open_at_start)
