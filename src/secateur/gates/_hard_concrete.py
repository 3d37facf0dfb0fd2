"""Hard concrete gates: stochastic, differentiable, and exactly zero or one with some probability (L0)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import SecateurError
from secateur.axes import Gate, Stand
from secateur.gates._local import local, output

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


class HardConcrete(Gate):
    """z = clip(s(ζ − γ) + γ, 0, 1), s a binary concrete of location log α: one z per input, or per filter.

    Of a matrix the gates stand on its inputs, of a kernel on its first dimension: the filters of a convolution, the
    inputs of a transposed one. log α is drawn from torch's global generator, as initial weights are.

    One draw serves a batch; with `per_example` linear and convolutional layers draw for each example.
    """

    options: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}

    def __init__(
        self,
        parameter: nn.Parameter,
        *,
        strength: float,
        open_at_start: float,
        decay: float = 0.0,
        per_example: bool = False,
    ) -> None:
        super().__init__()
        self._decay, self._per_example = decay, per_example
        # Per input of a matrix, per filter of a convolution, as the authors have it.
        shape = [1, parameter.shape[1]] if parameter.dim() == 2 else [len(parameter), *[1] * (parameter.dim() - 1)]
        self._cost = strength * parameter.numel() / math.prod(shape)  # of one open gate: λ × the weights behind it
        start = math.log(open_at_start / (1 - open_at_start))
        self.log_alpha = nn.Parameter(torch.full(shape, start) + 0.01 * torch.randn(shape))

    def meet(self, layers: Sequence[nn.Module]) -> None:
        self.stands_on = Stand.LAYER if self._per_example and all(local(each) for each in layers) else Stand.WEIGHT

    def forward(self, stood_on: nn.Module | Tensor, *inputs: Any) -> Tensor:
        if isinstance(stood_on, Tensor):
            return stood_on * (self.drawn(self.log_alpha) if self.training else self._eval_opening())
        layer: Any = stood_on
        if not self.training:
            return output(layer, inputs[0], layer.weight * self._eval_opening(), layer.bias)
        if isinstance(layer, nn.Linear):  # one gate for each input
            between = [1] * (inputs[0].dim() - 2)
            each = self.log_alpha.reshape(*between, -1).expand(*inputs[0].shape[:1], *between, -1)
            return F.linear(inputs[0] * self.drawn(each), layer.weight, layer.bias)
        found = output(layer, inputs[0], layer.weight, None)
        each = self.log_alpha.reshape(1, *self.log_alpha.shape[:1], *self.log_alpha.shape[2:])
        bias = 0 if layer.bias is None else layer.bias.reshape(each.shape)
        return found * self.drawn(each.expand(len(found), *each.shape[1:])) + bias

    def drawn(self, log_alpha: Tensor) -> Tensor:
        """A draw of z for each entry."""
        u = torch.empty(log_alpha.shape, dtype=log_alpha.dtype, device=log_alpha.device).uniform_(1e-6, 1 - 1e-6)
        return self.opening(torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / BETA))

    def _eval_opening(self) -> Tensor:
        return self.opening(torch.sigmoid(self.log_alpha))

    def opening(self, s: Tensor) -> Tensor:
        """z of a binary concrete value s: stretched to (γ, ζ) and clipped to [0, 1]."""
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def chance(self) -> Tensor:
        """P(z ≠ 0) of each gate."""
        return torch.sigmoid(self.log_alpha - BETA * math.log(-GAMMA / ZETA))

    def penalty(self, weight: Tensor) -> Tensor:
        chance = self.chance()
        price = self._cost * chance.sum()
        if self._decay:  # as much of each weight's decay as there is of the weight
            price = price + 0.5 * self._decay * (chance * weight.square()).sum()
        return price

    def keep(self, weight: Tensor) -> Tensor:
        return self.opening(torch.sigmoid(self.log_alpha)) > 0

    def after_step(self, weight: Tensor, lr: float) -> None:
        self.log_alpha.clamp_(-math.log(100), math.log(100))


@dataclass(frozen=True)
class HardConcretes:
    """Puts a `HardConcrete` on every weight."""

    strength: float
    open_at_start: float
    inputs_open: float | None = None
    decay: float = 0.0
    per_example: bool = False

    def of_all(self, params: Mapping[str, nn.Parameter]) -> HardConcretes | _FromInputs:
        """Know which gates stand on the network's own inputs: those of the first weight, where it is a matrix."""
        first = next(iter(params), "")
        if self.inputs_open is None or not first or params[first].dim() != 2:
            return self
        return _FromInputs(self, replace(self, open_at_start=self.inputs_open), first)

    def __call__(self, name: str, parameter: nn.Parameter) -> HardConcrete:
        return HardConcrete(
            parameter,
            strength=self.strength,
            open_at_start=self.open_at_start,
            decay=self.decay,
            per_example=self.per_example,
        )


@dataclass(frozen=True)
class _FromInputs:
    others: HardConcretes
    inputs: HardConcretes
    first: str

    def __call__(self, name: str, parameter: nn.Parameter) -> HardConcrete:
        return (self.inputs if name == self.first else self.others)(name, parameter)


def hard_concrete(
    *,
    strength: float,
    open_at_start: float,
    inputs_open: float | None = None,
    decay: float = 0.0,
    per_example: bool = False,
) -> HardConcretes:
    """Hard concrete gates whose penalty is `strength` for each weight behind an open gate: see `methods.l0`."""
    if not (0 < open_at_start < 1 and strength >= 0):
        raise SecateurError(
            "hard_concrete needs 0 < open_at_start < 1 and strength >= 0, got "
            f"open_at_start={open_at_start} and strength={strength}."
        )
    if not (decay >= 0 and (inputs_open is None or 0 < inputs_open < 1)):
        raise SecateurError(
            f"hard_concrete needs 0 < inputs_open < 1 and decay >= 0, got inputs_open={inputs_open} and decay={decay}."
        )
    return HardConcretes(strength, open_at_start, inputs_open, decay, per_example)
