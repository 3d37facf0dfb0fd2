"""What moves together: a structure cuts a weight tensor into units that are kept or pruned as one.

Every structure is two inverse reshapes and a reduction. `units` lays a tensor out as `[unit, entry]`, `expand` turns
one keep-bit per unit back into a mask of the tensor's shape, and `reduce` makes one score of a unit's entries.
The notation in the docstrings is einops' (`o` outputs, `i` inputs, `h w` kernel positions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Float, Shaped

Layout = Callable[[Tensor], Tensor]


def total(scores: Float[Tensor, "unit entry"]) -> Float[Tensor, " unit"]:
    """Score a unit by the sum of its entries' scores."""
    return scores.squeeze(1) if scores.shape[1] == 1 else scores.sum(1)


def mean(scores: Float[Tensor, "unit entry"]) -> Float[Tensor, " unit"]:
    """Score a unit by the mean of its entries' scores: units of different sizes compete on equal terms."""
    return scores.squeeze(1) if scores.shape[1] == 1 else scores.mean(1)


@dataclass(frozen=True)
class Structure:
    """Units of pruning: how a tensor splits into them, and how their entries' scores combine.

    Attributes:
        name: as printed.
        split: tensor of any shape → `[unit, entry]`.
        join: `[unit, entry]` and the tensor's shape → tensor of that shape; the inverse of `split`.
        reduce: scores `[unit, entry]` → `[unit]`; a plain function, `total` or `mean` or your own.
        biases: whether biases belong to the prunable tensors (SNIP's own protocol counts them).
    """

    name: str
    split: Layout
    join: Callable[[Tensor, torch.Size], Tensor]
    reduce: Callable[[Tensor], Tensor] = total
    biases: bool = False

    def units(self, tensors: Mapping[str, Tensor]) -> dict[str, Shaped[Tensor, "unit entry"]]:
        """Lay each tensor out as `[unit, entry]`."""
        return {name: self.split(tensor) for name, tensor in tensors.items()}

    def scores(self, name: str, scores: Tensor) -> Tensor:
        """Reduce one tensor's entry scores to unit scores; single weights keep the tensor's own shape."""
        units = self.split(scores)
        if units.shape[1] == 1:
            return scores  # one entry per unit: nothing to reduce, and N:M needs the shape
        return self.reduce(units)

    def expand(
        self, keep: Mapping[str, Bool[Tensor, "..."]], shapes: Mapping[str, torch.Size]
    ) -> dict[str, Bool[Tensor, "..."]]:
        """Turn one keep-bit per unit into masks of the tensors' `shapes`."""
        return {name: self._expand_one(bits, shapes[name]) for name, bits in keep.items()}

    def _expand_one(self, bits: Tensor, shape: torch.Size) -> Tensor:
        if bits.shape == shape:
            return bits
        entries = self.split(torch.empty(shape, dtype=torch.bool, device="meta")).shape[1]
        return self.join(bits.reshape(-1, 1).expand(-1, entries), shape)


def weights(*, biases: bool = False) -> Structure:
    """Single weights: `... -> (...) 1`. With `biases`, biases are prunable too."""
    name = "weights(biases=True)" if biases else "weights"
    return Structure(name, _split_weights, _join_reshape, biases=biases)


def filters(*, reduce: Layout = total) -> Structure:
    """Whole filters or neurons, with all that feeds them: `o ... -> o (...)`."""
    return Structure("filters", _split_filters, _join_reshape, reduce)


def columns(*, reduce: Layout = total) -> Structure:
    """Everything that reads one input: `o i ... -> i (o ...)`."""
    return Structure("columns", _split_columns, _join_columns, reduce)


def kernels(*, reduce: Layout = total) -> Structure:
    """The 2-d kernel between one input and one output channel: `o i ... -> (o i) (...)`."""
    return Structure("kernels", _split_kernels, _join_reshape, reduce)


def stripes(*, reduce: Layout = total) -> Structure:
    """One kernel position over all inputs of a filter: `o i ... -> (o ...) i`."""
    return Structure("stripes", _split_stripes, _join_stripes, reduce)


def heads(count: int, *, reduce: Layout = total) -> Structure:
    """`count` equal groups of consecutive outputs, as attention heads are: `(h d) ... -> h (d ...)`."""
    if count < 1:
        raise SecateurError(f"`count` must be at least 1, got {count}.")
    return Structure(f"heads({count})", _Heads(count), _join_reshape, reduce)


def blocks(rows: int, columns: int, *, reduce: Layout = total) -> Structure:
    """Tiles of `rows` outputs × `columns` inputs: `(o r) (i c) ... -> (o i ...) (r c)`.

    Where the sizes do not divide, the last tiles are smaller: they are padded with score 0 and cropped again.
    """
    if rows < 1 or columns < 1:
        raise SecateurError(f"`rows` and `columns` must be at least 1, got {rows} and {columns}.")
    return Structure(f"blocks({rows}, {columns})", _SplitBlocks(rows, columns), _JoinBlocks(rows, columns), reduce)


# --- layouts ------------------------------------------------------------------------------------------------------


def _split_weights(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, 1)


def _split_filters(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)


def _join_reshape(units: Tensor, shape: torch.Size) -> Tensor:
    return units.reshape(shape)


def _split_columns(tensor: Tensor) -> Tensor:
    tensor = _at_least_2d(tensor, "columns")
    return tensor.transpose(0, 1).reshape(tensor.shape[1], -1)


def _join_columns(units: Tensor, shape: torch.Size) -> Tensor:
    return units.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1).contiguous()


def _split_kernels(tensor: Tensor) -> Tensor:
    tensor = _at_least_2d(tensor, "kernels")
    return tensor.reshape(tensor.shape[0] * tensor.shape[1], -1)


def _split_stripes(tensor: Tensor) -> Tensor:
    tensor = _at_least_2d(tensor, "stripes")
    return tensor.flatten(2).transpose(1, 2).reshape(-1, tensor.shape[1]) if tensor.dim() > 2 else tensor


def _join_stripes(units: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) == 2:
        return units.reshape(shape)
    return units.reshape(shape[0], -1, shape[1]).transpose(1, 2).reshape(shape).contiguous()


@dataclass(frozen=True)
class _Heads:
    count: int

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.shape[0] % self.count:
            raise SecateurError(
                f"heads({self.count}) needs a number of outputs divisible by {self.count}, got {tuple(tensor.shape)}. "
                "Narrow the prunable tensors with `only=`."
            )
        return tensor.reshape(self.count, -1)


@dataclass(frozen=True)
class _SplitBlocks:
    rows: int
    columns: int

    def __call__(self, tensor: Tensor) -> Tensor:
        tensor = _at_least_2d(tensor, "blocks")
        high, wide, rest = _tiling(tensor.shape, self.rows, self.columns)
        padded = tensor.new_zeros(high * self.rows, wide * self.columns, rest)
        padded[: tensor.shape[0], : tensor.shape[1]] = tensor.reshape(tensor.shape[0], tensor.shape[1], rest)
        tiles = padded.reshape(high, self.rows, wide, self.columns, rest)
        return tiles.permute(0, 2, 4, 1, 3).reshape(high * wide * rest, self.rows * self.columns)


@dataclass(frozen=True)
class _JoinBlocks:
    rows: int
    columns: int

    def __call__(self, units: Tensor, shape: torch.Size) -> Tensor:
        high, wide, rest = _tiling(shape, self.rows, self.columns)
        tiles = units.reshape(high, wide, rest, self.rows, self.columns).permute(0, 3, 1, 4, 2)
        padded = tiles.reshape(high * self.rows, wide * self.columns, rest)
        return padded[: shape[0], : shape[1]].reshape(shape).contiguous()


def _tiling(shape: torch.Size, rows: int, columns: int) -> tuple[int, int, int]:
    """Number of tiles down and across, and of kernel positions."""
    return math.ceil(shape[0] / rows), math.ceil(shape[1] / columns), math.prod(shape[2:])


def _at_least_2d(tensor: Tensor, structure: str) -> Tensor:
    if tensor.dim() < 2:
        raise SecateurError(
            f"structure {structure} needs weights with outputs and inputs (2 dimensions or more), got shape "
            f"{tuple(tensor.shape)}. Narrow the prunable tensors with `only=`."
        )
    return tensor
