"""Scores that choose among weights which are never trained (edge-popup)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.axes import Gate
from secateur.gates.straight._through import spread, through


class EdgePopup(Gate):
    """w ⊙ M, M the best of |s|, chosen by the scope; ∂L/∂s = ∂L/∂(w ⊙ M) ⊙ w · sign(s), and w is never trained."""

    freezes: ClassVar[bool] = True
    mask: Tensor

    def __init__(self, parameter: nn.Parameter, *, constant: bool) -> None:
        super().__init__()
        self._constant = constant
        self.scores = nn.Parameter(torch.empty_like(parameter.detach()))
        bound = (parameter.numel() / len(parameter)) ** -0.5  # Kaiming-uniform with a = √5
        nn.init.uniform_(self.scores, -bound, bound)
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        weight, size = weight.detach(), self.scores.abs()
        fixed = weight.sign() * spread(weight) if self._constant else weight
        return fixed * through(self.mask.to(weight.dtype), size)

    def worth(self, weight: Tensor) -> Tensor:
        return self.scores.detach().abs()

    def admit(self, mask: Tensor) -> None:
        self.mask.copy_(mask)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask


@dataclass(frozen=True)
class EdgePopups:
    """Puts an `EdgePopup` on every weight."""

    constant: bool

    def __call__(self, name: str, parameter: nn.Parameter) -> EdgePopup:
        return EdgePopup(parameter, constant=self.constant)


def edge_popups(*, constant: bool) -> EdgePopups:
    """Scores on weights that stay as they are drawn: see `methods.edge_popup`."""
    return EdgePopups(constant)
