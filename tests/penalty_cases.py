"""Penalties and gates for the tests of what a method attaches: prices, proximal steps, worths, held-out learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur import Gate, schedule, scope, structure
from secateur.axes import Method, Penalty, Schedule, method

STRENGTH = 0.05


def squares(name: str, weight: Tensor) -> Tensor:
    return STRENGTH * weight.square().sum()


def shrunk(name: str, weight: Tensor, lr: float) -> Tensor:
    return weight * (1 - lr)


def penalised(penalty: Penalty, *, at: int = 4, density: float = 0.5) -> Method:
    """Magnitude pruning at step `at`, under a penalty until then."""
    parts = {"structure": structure.weights(), "scope": scope.everywhere(), "schedule": schedule.once(density, at=at)}
    return method("penalised", lambda weight: weight.abs(), penalty=penalty, **parts)


class Scored(Gate):
    """w ⊙ m, m chosen by the scope among the magnitudes of a score that learns."""

    mask: Tensor

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        # Drawn from the shape, so that every copy is the same, and without two equal ones.
        self.score = nn.Parameter(torch.linspace(-1, 1.5, parameter.numel()).reshape(parameter.shape))
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.mask + (self.score - self.score.detach()))

    def worth(self, weight: Tensor) -> Tensor:
        return self.score.abs()

    def admit(self, mask: Tensor) -> None:
        self.mask.copy_(mask)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask

    def fold(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Retiring(Scored):
    retires: ClassVar[bool] = True


class HeldOut(Gate):
    """w · a, one a per row, learned from held-out examples alone."""

    held_out: ClassVar[bool] = True

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(len(parameter), *[1] * (parameter.dim() - 1)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.a

    def keep(self, weight: Tensor) -> Tensor:
        return self.a > 0

    def trainer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@dataclass(frozen=True)
class Put:
    """Puts one kind of gate on the parameters of a name, or on all."""

    gate: type[Gate]
    name: str = ""

    @property
    def held_out(self) -> bool:
        return self.gate.held_out

    def __call__(self, name: str, parameter: nn.Parameter) -> Gate | None:
        return self.gate(parameter) if name.startswith(self.name) else None  # type: ignore[call-arg]


def relaxed(gate: type[Gate], when: Schedule, name: str = "") -> Method:
    """A method that consists of one kind of gate and a schedule."""
    parts = {"structure": structure.weights(), "scope": scope.everywhere(), "schedule": when}
    return method("relaxed", None, relax=Put(gate, name), **parts)
