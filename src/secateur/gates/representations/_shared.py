"""Values that many weights share, trained by the gradients of all of them (trained quantisation)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate, scope
from secateur.coding import Init, linear, shared_values
from secateur.gates.representations._looked_up import looked_up


class Shared(Gate):
    """C[I], at most 2^b values for all weights of a tensor: I is fixed, and ∂L/∂C_k = Σ over I_ij = k of ∂L/∂W_ij.

    Weights that are exactly zero when the gate is put up have no value, and stay zero. `codebook` holds C; `codes` is
    1 + I for each weight, 0 for those that are zero.
    """

    own_trainer: ClassVar[bool] = True
    freezes: ClassVar[bool] = True
    codes: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Sharings, bits: int) -> None:
        super().__init__()
        self.settings = settings
        weight = parameter.detach()
        alive = weight != 0
        codebook, indices = shared_values(weight, alive, bits, settings.init)
        codes = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
        codes[alive] = (indices + 1).to(torch.int32)
        self.codebook = nn.Parameter(codebook)
        self.register_buffer("codes", codes)

    def forward(self, weight: Tensor) -> Tensor:
        return looked_up(torch.cat([self.codebook.new_zeros(1), self.codebook]), self.codes)

    def keep(self, weight: Tensor) -> Tensor:
        return self.codes != 0

    def trainer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.settings.rate, momentum=self.settings.momentum)


@dataclass(frozen=True)
class Sharings:
    """Puts a `Shared` on every weight that has a number of bits."""

    bits: int | tuple[tuple[str, int], ...]
    rate: float
    momentum: float
    init: Init

    def of_all(self, params: Mapping[str, nn.Parameter]) -> _Named:
        """The bits of each weight, names and globs read."""
        given = {"*": self.bits} if isinstance(self.bits, int) else dict(self.bits)
        return _Named(self, {name: int(bits) for name, bits in scope.by_name(given, params, "bits").items()})

    def __call__(self, name: str, parameter: nn.Parameter) -> Shared | None:
        return self.of_all({name: parameter})(name, parameter)


@dataclass(frozen=True)
class _Named:
    settings: Sharings
    bits: Mapping[str, int]

    def __call__(self, name: str, parameter: nn.Parameter) -> Shared | None:
        return Shared(parameter, self.settings, self.bits[name]) if name in self.bits else None


def sharing(*, bits: int | Mapping[str, int], rate: float, momentum: float = 0.9, init: Init = linear) -> Sharings:
    """Shared values, trained: see `methods.trained_quantisation`."""
    for value in [bits] if isinstance(bits, int) else bits.values():
        if not 1 <= value <= 16:
            raise SecateurError(f"`bits` must be a whole number from 1 to 16, got {value!r}: 5 makes 32 values.")
    if not (0 <= rate < math.inf and 0 <= momentum < 1):
        raise SecateurError(f"sharing needs rate >= 0 and 0 <= momentum < 1, got rate={rate} and momentum={momentum}.")
    return Sharings(bits if isinstance(bits, int) else tuple(bits.items()), rate, momentum, init)
