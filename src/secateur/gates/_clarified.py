"""A price on the outputs of a layer that asks each hidden unit to be on or off (Ishikawa's clarification)."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.axes import Gate, Stand
from secateur.axes.penalty import check_strength


class Clarify(torch.autograd.Function):
    """The identity, whose gradient is that of the outputs' price besides: c·Σ min(1 − h, h), h = σ(z), per example."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(outputs)
        ctx.strength = strength
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (outputs,) = ctx.saved_tensors
        h = torch.sigmoid(outputs)
        # h where h < ½, 1 − h where it is above: away from the middle, on either side
        price = ctx.strength * -outputs.sign() * h * (1 - h) / len(outputs)
        return grads[0] + price, None


class Clarified(Gate):
    """Passes a layer's outputs on, and lets them pay for being undecided; keeps what the scope chooses among |w|."""

    stands_on = Stand.OUTPUT
    retires: ClassVar[bool] = True
    mask: Tensor

    def __init__(self, parameter: nn.Parameter, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.register_buffer("mask", torch.ones_like(parameter, dtype=torch.bool))

    def forward(self, outputs: Tensor) -> Tensor:
        pays = self.strength > 0 and self.training and outputs.requires_grad
        return Clarify.apply(outputs, self.strength) if pays else outputs

    def worth(self, weight: Tensor) -> Tensor:
        return weight.abs()

    def admit(self, mask: Tensor) -> None:
        self.mask.copy_(mask)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask


@dataclass(frozen=True)
class Clarifications:
    """Puts a `Clarified` on every layer."""

    strength: float
    among: str

    def __call__(self, name: str, parameter: nn.Parameter) -> Clarified:
        return Clarified(parameter, self.strength if fnmatchcase(name, self.among) else 0.0)


def clarified(strength: float, *, among: str = "*") -> Clarifications:
    """A price on undecided outputs of the layers whose weight `among` names (a glob): see `methods.forgetting`."""
    check_strength(strength, "clarification")
    return Clarifications(strength, among)
