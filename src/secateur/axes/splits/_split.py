"""How a tensor is laid out as `[unit, entry]`, in the notation of einops."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from secateur._base.errors import SecateurError, UnfitModelError


def weights(tensor: Tensor) -> Tensor:
    """`... -> (...) 1`."""
    return tensor.reshape(-1, 1)


def filters(tensor: Tensor) -> Tensor:
    """`o ... -> o (...)`."""
    return tensor.reshape(tensor.shape[0], -1)


def columns(tensor: Tensor) -> Tensor:
    """`o i ... -> i (o ...)`."""
    return _at_least_2d(tensor, "columns").transpose(0, 1).flatten(1)


def kernels(tensor: Tensor) -> Tensor:
    """`o i ... -> (o i) (...)`."""
    return _at_least_2d(tensor, "kernels").reshape(tensor.shape[0] * tensor.shape[1], -1)


def stripes(tensor: Tensor) -> Tensor:
    """`o i ... -> (o ...) i`."""
    return _at_least_2d(tensor, "stripes").movedim(1, -1).reshape(-1, tensor.shape[1])


def lowered(tensor: Tensor) -> Tensor:
    """`o ... -> (...) o`."""
    return tensor.flatten(1).T if tensor.dim() > 1 else _at_least_2d(tensor, "lowered")


def shapes(tensor: Tensor) -> Tensor:
    """`o i p ... -> (i p ...) o`, of convolutions alone."""
    if tensor.dim() < 3:
        raise UnfitModelError(
            f"structure shapes needs the weights of convolutions (3 dimensions or more), got shape "
            f"{tuple(tensor.shape)}: a linear layer has no filter shapes. Narrow the prunable tensors with `only=`, or "
            "take structure.lowered(), whose groups are the inputs of a linear layer."
        )
    return lowered(tensor)


def whole(tensor: Tensor) -> Tensor:
    """`... -> 1 (...)`."""
    return tensor.reshape(1, -1)


@dataclass(frozen=True)
class Heads:
    """`(h d) ... -> h (d ...)`."""

    count: int

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.shape[0] % self.count:
            raise SecateurError(
                f"heads({self.count}) needs a number of outputs divisible by {self.count}, got {tuple(tensor.shape)}. "
                "Narrow the prunable tensors with `only=`."
            )
        return tensor.reshape(self.count, -1)


@dataclass(frozen=True)
class Blocks:
    """`(o r) (i c) ... -> (o i ...) (r c)`, padded where the sizes do not divide."""

    rows: int
    columns: int

    def __call__(self, tensor: Tensor) -> Tensor:
        outputs, inputs, *_ = _at_least_2d(tensor, "blocks").shape
        high, wide, rest = math.ceil(outputs / self.rows), math.ceil(inputs / self.columns), math.prod(tensor.shape[2:])
        padded = tensor.new_zeros(high * self.rows, wide * self.columns, rest)
        padded[:outputs, :inputs] = tensor.reshape(outputs, inputs, rest)
        tiles = padded.reshape(high, self.rows, wide, self.columns, rest)
        return tiles.permute(0, 2, 4, 1, 3).reshape(high * wide * rest, self.rows * self.columns)


def _at_least_2d(tensor: Tensor, structure: str) -> Tensor:
    if tensor.dim() < 2:
        raise SecateurError(
            f"structure {structure} needs weights with outputs and inputs (2 dimensions or more), got shape "
            f"{tuple(tensor.shape)}. Narrow the prunable tensors with `only=`."
        )
    return tensor
