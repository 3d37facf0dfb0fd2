"""A choice for each weight among fixed values (slot machines)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.gates.straight._through import spread, through


class SlotMachine(Gate):
    """One of K fixed values for each weight: that of the best score, or one drawn by the scores' softmax."""

    freezes: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}
    choice: Tensor
    others: Tensor

    def __init__(self, parameter: nn.Parameter, settings: SlotMachines) -> None:
        super().__init__()
        self.settings = settings
        weight = parameter.detach()
        drawn = settings.slots - 1 - int(settings.zero)
        self.register_buffer("others", torch.randn(drawn, *weight.shape).to(weight) * spread(weight))
        self.scores = nn.Parameter(torch.empty(settings.slots, *weight.shape).uniform_(0, settings.scale))
        self.register_buffer("choice", self.scores.detach().argmax(0).to(torch.uint8))

    def forward(self, weight: Tensor) -> Tensor:
        pulled = self.choice.long().unsqueeze(0)
        value = self.values(weight.detach()).gather(0, pulled)[0]
        score = self.scores.gather(0, pulled)[0]
        return value * through(torch.ones_like(score), score)

    def values(self, weight: Tensor) -> Tensor:
        """The K values of each weight, `[slot, ...]`: its own, those drawn, and 0 last where there is one."""
        zero = [torch.zeros_like(weight).unsqueeze(0)] if self.settings.zero else []
        return torch.cat([weight.unsqueeze(0), self.others, *zero])

    def keep(self, weight: Tensor) -> Tensor:
        nothing = self.settings.slots - 1 if self.settings.zero else self.settings.slots
        return self.choice != nothing

    def after_step(self, weight: Tensor, lr: float) -> None:
        scores = self.scores
        if self.settings.sampled:  # the largest of scores with Gumbel noise is drawn by their softmax
            where = self.generator.device if self.generator is not None else weight.device
            u = torch.rand(scores.shape, generator=self.generator, device=where, dtype=torch.float64).to(scores.device)
            scores = scores - (-(u.clamp(1e-12, 1 - 1e-12)).log()).log().to(scores.dtype)
        self.choice.copy_(scores.argmax(0))


@dataclass(frozen=True)
class SlotMachines:
    """Puts a `SlotMachine` on every weight."""

    slots: int
    zero: bool
    sampled: bool
    scale: float

    def __call__(self, name: str, parameter: nn.Parameter) -> SlotMachine:
        return SlotMachine(parameter, self)


def slot_machines(*, slots: int, zero: bool, sampled: bool, scale: float) -> SlotMachines:
    """Fixed values to choose from, for each weight: see `methods.slot_machines`."""
    if not 1 + int(zero) <= slots <= 255 or not 0 < scale < math.inf:
        raise SecateurError(
            f"slot machines need 1 to 255 slots (2 at least where one of them is zero) and scale > 0, got "
            f"slots={slots}, zero={zero} and scale={scale}."
        )
    return SlotMachines(slots, zero, sampled, scale)
