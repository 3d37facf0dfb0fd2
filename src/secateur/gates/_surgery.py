"""A mask with hysteresis on a weight that goes on learning behind it (DNS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate


class Surgery(Gate):
    """A mask with hysteresis: at 0.9·t or below a weight is cut, above 1.1·t it is spliced in again, between it stays.

    0.9 and 1.1 are `low` and `high`, and t = max(μ + c·σ, 0), mean and standard deviation of |w| over the weights
    that are not zero when the gate is put up.
    """

    mask: Tensor
    threshold: Tensor
    steps: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Surgeons, quality: float) -> None:
        super().__init__()
        self.settings = settings
        size = parameter.detach().abs()
        alive = size[size > 0]
        spread = quality * alive.std(correction=0) if alive.numel() else torch.zeros(())
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
            self.mask &= size > self.settings.low * self.threshold
            self.mask |= size > self.settings.high * self.threshold


@dataclass(frozen=True)
class Surgeons:
    """Puts a `Surgery` on every weight that has a quality."""

    quality: tuple[tuple[str, float], ...]
    until: int
    gamma: float
    power: float
    low: float
    high: float

    def __call__(self, name: str, parameter: nn.Parameter) -> Surgery | None:
        named = dict(self.quality)
        hits = [value for pattern, value in self.quality if fnmatchcase(name, pattern)]
        quality = named.get(name, hits[0] if hits else None)
        return None if quality is None else Surgery(parameter, self, quality)


def surgery(
    *,
    quality: float | Mapping[str, float],
    until: int,
    gamma: float,
    power: float,
    low: float = 0.9,
    high: float = 1.1,
) -> Surgeons:
    """Masks with hysteresis, updated after step i < `until` with probability (1 + γi)^−p: see `methods.dns`.

    `quality` may be one for all, or by name or glob: an exact name wins over a glob, an earlier glob over a later one.
    """
    if until < 1 or gamma < 0 or power < 0:
        raise SecateurError(
            f"surgery needs until >= 1, gamma >= 0 and power >= 0, got until={until}, gamma={gamma}, power={power}."
        )
    if not 0 <= low <= high:
        raise SecateurError(
            f"surgery needs 0 <= low <= high, got low={low} and high={high}: above `high` times the threshold a weight "
            "comes back, at `low` times or below it goes."
        )
    named = quality if isinstance(quality, Mapping) else {"*": quality}
    return Surgeons(tuple(named.items()), until, gamma, power, low, high)
