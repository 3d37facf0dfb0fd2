"""A random mask, learned, on weights which are never trained (supermasks)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.gates.straight._through import spread, through


class Supermask(Gate):
    """±σ ⊙ m · n/Σm, m ~ Bernoulli(sigmoid(s)), one draw after each step; σ is the deviation of the layer's weights."""

    freezes: ClassVar[bool] = True
    own_trainer: ClassVar[bool] = True
    mask: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Supermasks) -> None:
        super().__init__()
        self.settings = settings
        self.scores = nn.Parameter(torch.full_like(parameter.detach(), settings.start))
        drawn = torch.bernoulli(torch.sigmoid(self.scores.detach()))
        self.register_buffer("mask", drawn.to(torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        weight, chance = weight.detach(), torch.sigmoid(self.scores)
        fixed = weight.sign() * spread(weight) if self.settings.constant else weight
        if self.settings.rescale:
            fixed = fixed * (self.mask.numel() / self.mask.count_nonzero().clamp(min=1))
        return fixed * through(self.mask.to(weight.dtype), chance)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask

    def after_step(self, weight: Tensor, lr: float) -> None:
        where = self.generator.device if self.generator is not None else weight.device
        u = torch.rand(weight.shape, generator=self.generator, device=where, dtype=weight.dtype).to(weight.device)
        self.mask.copy_(u < torch.sigmoid(self.scores))

    def trainer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.settings.rate)


@dataclass(frozen=True)
class Supermasks:
    """Puts a `Supermask` on every weight."""

    rate: float
    start: float
    constant: bool
    rescale: bool

    def __call__(self, name: str, parameter: nn.Parameter) -> Supermask:
        return Supermask(parameter, self)


def supermasks(*, rate: float, start: float, constant: bool, rescale: bool) -> Supermasks:
    """Bernoulli masks on weights that stay as they are drawn: see `methods.supermask`."""
    if not 0 < rate < math.inf or not math.isfinite(start):
        raise SecateurError(f"supermasks need 0 < rate and a finite start, got rate={rate} and start={start}.")
    return Supermasks(rate, start, constant, rescale)
