"""A compressed copy beside each weight that pulls it nearer as training goes on (learning-compression)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.axes.penalty import check_strength


class Compressed(Gate):
    """w learns under (μ/2)‖w − θ − λ/μ‖²; at each milestone θ ← the kept entries of w − λ/μ, λ ← λ − μ(w − θ), μ grows.

    While training the layer computes with w, in eval mode with θ, which is what stays in the end. Before the first
    milestone there is no θ and no price.
    """

    retires: ClassVar[bool] = True
    theta: Tensor
    multiplier: Tensor
    mask: Tensor
    mu: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Compressions) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("theta", parameter.detach().clone())
        self.register_buffer("multiplier", torch.zeros_like(parameter))
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))
        self.register_buffer("mu", torch.zeros((), dtype=torch.float64))  # 0: nothing has been compressed yet

    @property
    def begun(self) -> bool:
        """Whether there is a θ."""
        return float(self.mu) > 0

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.training or not self.begun else self.theta

    def target(self, weight: Tensor) -> Tensor:
        """w − λ/μ: what θ is the nearest compressed value of."""
        return weight - self.multiplier / float(self.mu) if self.begun else weight

    def penalty(self, weight: Tensor) -> Tensor | None:
        if not self.begun:
            return None
        return float(self.mu) / 2 * (self.target(weight) - self.theta).square().sum()

    def worth(self, weight: Tensor) -> Tensor:
        self.theta.copy_(self.target(weight))  # `admit`, which follows, keeps some of it
        return self.theta.abs()

    def admit(self, mask: Tensor) -> None:
        self.mask.copy_(mask)
        if self.settings.multipliers:  # λ − μ(w − θ), where w = target + λ/μ: what is kept is met exactly
            self.multiplier.copy_(-float(self.mu) * self.theta * ~mask)
        self.theta.mul_(mask)
        self.mu.fill_(float(self.mu) * self.settings.growth if self.begun else self.settings.mu)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask

    def fold(self, weight: Tensor) -> Tensor:
        return (self.theta if self.begun else weight) * self.mask


@dataclass(frozen=True)
class Compressions:
    """Puts a `Compressed` on every weight."""

    mu: float
    growth: float
    multipliers: bool

    def __call__(self, name: str, parameter: nn.Parameter) -> Compressed:
        return Compressed(parameter, self)


def compressed(*, mu: float, growth: float, multipliers: bool) -> Compressions:
    """Compressed copies, nearer from milestone to milestone: see `methods.lc`."""
    check_strength(mu, "mu")
    if mu == 0 or growth < 1:
        raise SecateurError(f"compressed needs mu > 0 and growth >= 1, got mu={mu} and growth={growth}.")
    return Compressions(mu, growth, multipliers)
