"""A mask with hysteresis on a weight that goes on learning behind it (DNS)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate


class Surgery(Gate):
    """A mask with hysteresis: at 0.9·t or below a weight is cut, above 1.1·t it is spliced in again, between it stays.

    t = max(μ + c·σ, 0), mean and standard deviation of |w| over the weights that are not zero when the gate is put up.
    """

    mask: Tensor
    threshold: Tensor
    steps: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Surgeons) -> None:
        super().__init__()
        self.settings = settings
        size = parameter.detach().abs()
        alive = size[size > 0]
        spread = settings.quality * alive.std(correction=0) if alive.numel() else torch.zeros(())
        middle = alive.mean() if alive.numel() else torch.zeros(())
        self.register_buffer("threshold", (middle + spread).clamp(min=0))
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, weight: Tensor) -> Tensor:
        # Forward with what is connected, backward as if everything were: the cut go on learning.
        return weight + (weight * self.mask - weight).detach()

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask

    def fold(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def after_step(self, weight: Tensor, lr: float) -> None:
        step = int(self.steps)
        self.steps += 1
        chance = (1 + self.settings.gamma * step) ** -self.settings.power
        where = self.generator.device if self.generator is not None else torch.device("cpu")
        if step < self.settings.until and float(torch.rand((), generator=self.generator, device=where)) < chance:
            size = weight.abs()
            self.mask &= size > 0.9 * self.threshold
            self.mask |= size > 1.1 * self.threshold


@dataclass(frozen=True)
class Surgeons:
    """Puts a `Surgery` on every weight."""

    quality: float
    until: int
    gamma: float
    power: float

    def __call__(self, name: str, parameter: nn.Parameter) -> Surgery:
        return Surgery(parameter, self)


def surgery(*, quality: float, until: int, gamma: float, power: float) -> Surgeons:
    """Masks with hysteresis, updated after step i < `until` with probability (1 + γi)^−p: see `methods.dns`."""
    if until < 1 or gamma < 0 or power < 0:
        raise SecateurError(
            f"surgery needs until >= 1, gamma >= 0 and power >= 0, got until={until}, gamma={gamma}, power={power}."
        )
    return Surgeons(quality, until, gamma, power)
