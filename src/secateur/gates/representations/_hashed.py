"""Weights that are looked up by a hash of their place: many places share one number (HashedNets)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.gates.representations._looked_up import looked_up

_WORD = 0xFFFFFFFF  # 32 bits


def mixed(places: Tensor, salt: int) -> Tensor:
    """Hash integers to integers in [0, 2³²): murmur3's finaliser of place · 0x9E3779B1 + salt, in 32 bits.

    Pure arithmetic on 64-bit integers: the same on every machine, device and Python.

    Args:
        places: int64, not negative.
        salt: of which the last 32 bits count.

    >>> mixed(torch.arange(3), 7).tolist()
    [415870660, 920564995, 3356300964]
    """
    h = (places * 0x9E3779B1 + (salt & _WORD)) & _WORD
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _WORD
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _WORD
    return h ^ (h >> 16)


class Hashed(Gate):
    """V_i = ξ(i) · w_{h(i)} for the places i of a tensor, with K numbers w: h: i → {0…K−1}, ξ: i → ±1.

    ∂L/∂w_k = Σ over h(i) = k of ξ(i) ∂L/∂V_i. Weights that are zero when the gate is put up stay zero. `values` holds
    w; where each goes follows from the name of the tensor and the seed alone.
    """

    freezes: ClassVar[bool] = True
    codes: Tensor
    signs: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Hashings, name: str) -> None:
        super().__init__()
        weight = parameter.detach()
        count = max(1, math.ceil(settings.ratio * weight.numel()))
        salt = zlib.crc32(name.encode()) ^ (settings.seed * 0x9E3779B1)
        places = torch.arange(weight.numel(), dtype=torch.int64)
        codes = mixed(places, salt) % count
        signs = 1 - 2 * (mixed(places, salt + 1) >> 31)
        alive = (weight.flatten() != 0).cpu()
        self.register_buffer("codes", codes.to(torch.int32).reshape(weight.shape).to(weight.device))
        self.register_buffer("signs", (signs * alive).to(torch.int8).reshape(weight.shape).to(weight.device))
        self.values = nn.Parameter(self._start(weight, count, fitted=settings.fitted))

    def _start(self, weight: Tensor, count: int, *, fitted: bool) -> Tensor:
        """Each number from the weights that share it: their mean, or the first, which has a weight's spread."""
        codes, own = self.codes.flatten().long(), weight.flatten().double() * self.signs.flatten()
        living = self.signs.flatten() != 0
        if fitted:
            sums = torch.zeros(count, dtype=torch.float64, device=weight.device).index_add_(0, codes, own)
            sizes = torch.zeros_like(sums).index_add_(0, codes, living.double())
            return (sums / sizes.clamp(min=1)).to(weight.dtype)
        places = torch.arange(len(codes), device=weight.device)
        first = torch.full((count,), len(codes), device=weight.device)
        first.scatter_reduce_(0, codes[living], places[living], "amin")
        return torch.cat([own, own.new_zeros(1)])[first].to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        return looked_up(self.values, self.codes) * self.signs

    def keep(self, weight: Tensor) -> Tensor:
        return self.signs != 0


@dataclass(frozen=True)
class Hashings:
    """Puts a `Hashed` on every weight."""

    ratio: float
    seed: int
    fitted: bool

    def __call__(self, name: str, parameter: nn.Parameter) -> Hashed:
        return Hashed(parameter, self, name)


def hashing(*, ratio: float, seed: int = 0, fitted: bool = False) -> Hashings:
    """As many numbers as a share of the weights, found by hash: see `methods.hashed`."""
    if not 0 < ratio <= 1:
        raise SecateurError(f"`ratio` must be in (0, 1], got {ratio}: how many numbers there are for each weight.")
    return Hashings(ratio, seed, fitted)
