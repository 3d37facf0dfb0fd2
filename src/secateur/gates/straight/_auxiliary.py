"""An auxiliary number for each weight, learned from held-out examples: where it is positive, the weight stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.gates.straight._through import through

Surrogate = Callable[[Tensor], Tensor]


class Auxiliary(Gate):
    """w ⊙ 1[m > 0]; ∂L/∂m = ∂L/∂(w ⊙ h) · sign(w) · ĥ′(m), whatever |w| is, and μ·Σh(m) is priced by ĥ too."""

    held_out: ClassVar[bool] = True

    def __init__(self, parameter: nn.Parameter, settings: Auxiliaries) -> None:
        super().__init__()
        self.settings = settings
        self.m = nn.Parameter(torch.full_like(parameter.detach(), settings.start))

    def forward(self, weight: Tensor) -> Tensor:
        opened = weight * (self.m.detach() > 0)
        return through(opened, weight.detach().sign() * self.settings.surrogate(self.m))

    def penalty(self, weight: Tensor) -> Tensor:
        count = (self.m.detach() > 0).to(self.m.dtype)
        return self.settings.strength * through(count, self.settings.surrogate(self.m)).sum()

    def keep(self, weight: Tensor) -> Tensor:
        return self.m > 0

    def trainer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.settings.rate)


@dataclass(frozen=True)
class Auxiliaries:
    """Puts an `Auxiliary` on every weight."""

    strength: float
    rate: float
    start: float
    surrogate: Surrogate
    held_out: ClassVar[bool] = True

    def __call__(self, name: str, parameter: nn.Parameter) -> Auxiliary:
        return Auxiliary(parameter, self)


def auxiliaries(*, strength: float, rate: float, start: float, surrogate: Surrogate) -> Auxiliaries:
    """Auxiliary numbers that learn from held-out examples: see `methods.auto_prune`."""
    if not (0 <= strength < math.inf and 0 < rate < math.inf and 0 < start < math.inf):
        raise SecateurError(
            "auxiliaries need strength >= 0, rate > 0 and start > 0 (at 0 or below nothing would be alive), got "
            f"strength={strength}, rate={rate} and start={start}."
        )
    return Auxiliaries(strength, rate, start, surrogate)
