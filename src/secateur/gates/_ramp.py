"""A mask behind a threshold that rises in two slopes (Narang): what falls below it goes, and stays away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate


class Ramp(Gate):
    """w ⊙ m; at every `every`-th step t with begin ≤ t < end, m ← m where |w| > ε(t).

    ε(t)·f = θ(t − t_s + 1) up to the ramp, then θ(t_r − t_s + 1) + 3/2·θ(t − t_r + 1), with steps between cuts f, begin
    t_s, ramp t_r, end t_e and θ = 2qf/(2(t_r − t_s) + 3(t_e − t_r)), so that ε ends near q. q is the magnitude that a
    share `aim` of the weights exceeds at step t_s.
    """

    mask: Tensor
    quantile: Tensor
    steps: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Ramps) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))
        self.register_buffer("quantile", self.measured(parameter.detach()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def measured(self, weight: Tensor) -> Tensor:
        """q of these weights."""
        size = weight.abs().flatten()
        return size.kthvalue(max(1, round((1 - self.settings.aim) * len(size)))).values

    def threshold(self, step: int) -> float:
        """ε at an optimizer step."""
        begin, ramp, end, every = self.settings.begin, self.settings.ramp, self.settings.end, self.settings.every
        slope = 2 * float(self.quantile) * every / (2 * (ramp - begin) + 3 * (end - ramp))
        if step < ramp:
            return slope * (step - begin + 1) / every
        return (slope * (ramp - begin + 1) + 1.5 * slope * (step - ramp + 1)) / every

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask

    def fold(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def after_step(self, weight: Tensor, lr: float) -> None:
        self.steps += 1
        step = int(self.steps)
        if step == self.settings.begin:
            self.quantile.copy_(self.measured(weight))
        if self.settings.begin <= step < self.settings.end and step % self.settings.every == 0:
            self.mask &= weight.abs() > self.threshold(step)


@dataclass(frozen=True)
class Ramps:
    """Puts a `Ramp` on every weight."""

    aim: float
    begin: int
    ramp: int
    end: int
    every: int

    def __call__(self, name: str, parameter: nn.Parameter) -> Ramp:
        return Ramp(parameter, self)


def rising(*, aim: float, begin: int, ramp: int, end: int, every: int) -> Ramps:
    """Masks behind a threshold that rises from step `begin`, faster from `ramp`, to `end`: see `methods.narang`."""
    if not (0 <= begin <= ramp < end and every >= 1):
        raise SecateurError(
            f"rising needs 0 <= begin <= ramp < end and every >= 1, got begin={begin}, ramp={ramp}, end={end} and "
            f"every={every}. Let the schedule end later, or begin earlier."
        )
    if not 0 < aim <= 1:
        raise SecateurError(f"`aim` must be in (0, 1], the share of weights to aim at, got {aim}.")
    return Ramps(aim, begin, ramp, end, every)
