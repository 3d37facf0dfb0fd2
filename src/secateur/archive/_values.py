"""What becomes of the values that survive: kept bit for bit, shared, of eight bits, or rounded to half the bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.zeros import count_true
from secateur.coding import Cursor, Init, codebook_of, linear, nearest, number

__all__ = ["Code", "Values", "exact", "int8", "read_code", "rounded", "shared"]

#: Types of tensors by the number that stands for them in a file.
DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
_ROTATED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_UNSIGNED = {1: np.uint8, 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
_CHUNK, _PART = 1 << 15, 1 << 18  # entries at a time
_FEW, _MOST = 256, 1 << 16  # values of a codebook: with one byte for the index, and with two


@runtime_checkable
class Code(Protocol):
    """How the survivors of one tensor are told: `planes` streams of bytes, a byte of each for each survivor."""

    @property
    def kind(self) -> int:
        """The number of the kind in a file."""
        ...

    @property
    def planes(self) -> int:
        """How many streams."""
        ...

    @property
    def head(self) -> bytes:
        """What is to be known before them."""
        ...

    def encode(self, values: Tensor, rows: np.ndarray) -> list[np.ndarray]:
        """Survivors and the row of each → planes."""
        ...

    def decode(self, planes: Sequence[np.ndarray], rows: np.ndarray) -> Tensor:
        """Planes → survivors."""
        ...


@runtime_checkable
class Values(Protocol):
    """A choice of what becomes of values: `exact`, `shared(bits)`, `int8()`, `rounded(dtype)`."""

    @property
    def lossy(self) -> bool:
        """Whether values may change."""
        ...

    def fit(self, weight: Tensor, mask: Tensor | None) -> Code:
        """Make the code for a weight [row, ...], whose survivors are those of `mask`."""
        ...


def _bits(values: Tensor) -> np.ndarray:
    """Values as unsigned numbers of as many bits."""
    if not values.numel():  # which torch views as nothing else
        return np.zeros(0, _UNSIGNED[values.itemsize])
    return values.contiguous().view(torch.uint8).numpy().view(_UNSIGNED[values.itemsize])


def _from_bits(bits: np.ndarray, dtype: torch.dtype) -> Tensor:
    if not bits.size:
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(np.ascontiguousarray(bits).view(np.uint8)).view(dtype)


class _Bytes:
    """Values byte by byte; of floats the sign goes last, so that the exponent of 8 bits is a byte of its own."""

    kind = 0

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.planes, self.head = dtype, dtype.itemsize, b""
        self._last = 8 * dtype.itemsize - 1 if dtype in _ROTATED else 0

    def encode(self, values: Tensor, rows: np.ndarray) -> list[np.ndarray]:
        """Survivors → bytes, the highest first."""
        bits = _bits(values)
        if self._last:
            bits = bits << np.array(1, bits.dtype) | bits >> np.array(self._last, bits.dtype)
        table = bits.view(np.uint8).reshape(-1, self.planes)
        return [np.ascontiguousarray(table[:, plane]) for plane in reversed(range(self.planes))]

    def decode(self, planes: Sequence[np.ndarray], rows: np.ndarray) -> Tensor:
        """Bytes → survivors."""
        table = np.empty((len(planes[0]), self.planes), np.uint8)
        for index, plane in enumerate(reversed(planes)):
            table[:, index] = plane
        bits = table.reshape(-1).view(_UNSIGNED[self.planes])
        if self._last:
            bits = bits >> np.array(1, bits.dtype) | bits << np.array(self._last, bits.dtype)
        return _from_bits(bits, self.dtype)


class _Codebook:
    """Indices of shared values; `exactly`, where the values are the weights' own, bit for bit."""

    kind = 1

    def __init__(self, codebook: Tensor, *, exactly: bool) -> None:
        self.codebook, self._exactly = codebook, exactly
        self.planes = 1 if len(codebook) <= _FEW else 2
        self.head = number(len(codebook)) + _bits(codebook).tobytes()

    def encode(self, values: Tensor, rows: np.ndarray) -> list[np.ndarray]:
        """Survivors → indices, of two bytes the higher first."""
        if self._exactly:
            found = np.searchsorted(_bits(self.codebook), _bits(values))
        else:
            found = nearest(self.codebook, values).numpy()
        low = (found & 255).astype(np.uint8)
        return [low] if self.planes == 1 else [(found >> 8).astype(np.uint8), low]

    def decode(self, planes: Sequence[np.ndarray], rows: np.ndarray) -> Tensor:
        """Indices → survivors."""
        found = np.empty(len(planes[0]), _UNSIGNED[self.codebook.itemsize])
        table = _bits(self.codebook)
        for begin in range(0, len(found), _CHUNK):  # that wide indices stay in the cache
            part = slice(begin, begin + _CHUNK)
            index = planes[0][part].astype(np.intp)
            if len(planes) == 2:
                index = index << 8 | planes[1][part]
            if index.max() >= len(table):
                raise ValueError(f"an index is {index.max()}, and there are {len(table)} shared values")
            found[part] = table[index]
        return _from_bits(found, self.codebook.dtype)


class _Bytewise:
    """Whole numbers from -127 to 127, and for each row how much one is."""

    kind, planes = 2, 1

    def __init__(self, scales: Tensor, dtype: torch.dtype) -> None:
        self._scales, self._dtype = scales.to(torch.float32), dtype
        self.head = self._scales.numpy().tobytes()

    def encode(self, values: Tensor, rows: np.ndarray) -> list[np.ndarray]:
        """Survivors → whole numbers."""
        scales = self._scales[torch.from_numpy(rows)].double()
        return [(values.double() / scales).round_().clamp_(-127, 127).to(torch.int8).numpy().view(np.uint8)]

    def decode(self, planes: Sequence[np.ndarray], rows: np.ndarray) -> Tensor:
        """Whole numbers → survivors."""
        whole = torch.from_numpy(planes[0].view(np.int8).copy())
        return (whole.double() * self._scales[torch.from_numpy(rows)].double()).to(self._dtype)


class _Rounded(_Bytes):
    """Values in another type, byte by byte."""

    kind = 3

    def __init__(self, stored: torch.dtype, dtype: torch.dtype) -> None:
        super().__init__(stored)
        self._whole, self.head = dtype, bytes([DTYPES.index(stored)])

    def encode(self, values: Tensor, rows: np.ndarray) -> list[np.ndarray]:
        """Survivors → bytes of the rounded ones."""
        return super().encode(values.to(self.dtype), rows)

    def decode(self, planes: Sequence[np.ndarray], rows: np.ndarray) -> Tensor:
        """Bytes → survivors."""
        return super().decode(planes, rows).to(self._whole)


def read_code(kind: int, cursor: Cursor, dtype: torch.dtype, rows: int) -> Code:
    """Read the head of a code.

    Raises:
        ValueError: it is none.
    """
    if kind == 0:
        return _Bytes(dtype)
    if kind == 1:
        count = cursor.number(min(_MOST, cursor.left // dtype.itemsize))
        content = np.frombuffer(cursor.take(count * dtype.itemsize), np.uint8)
        return _Codebook(_from_bits(content.copy(), dtype), exactly=False)
    if kind == 2 and dtype.is_floating_point:
        return _Bytewise(torch.from_numpy(np.frombuffer(cursor.take(4 * rows), "<f4").copy()), dtype)
    if kind == 3 and dtype.is_floating_point:
        stored = cursor.byte()
        if stored < len(DTYPES) and DTYPES[stored] in _ROTATED:
            return _Rounded(DTYPES[stored], dtype)
    raise ValueError(f"its values are of a kind {kind} that there is not")


def _survivors(weight: Tensor, mask: Tensor | None) -> Tensor:
    """The survivors in memory of their own; part by part, since an index of all would take more than they do."""
    flat = weight.reshape(-1)
    if mask is None:
        return flat.clone()
    kept = torch.empty(count_true(mask), dtype=weight.dtype)
    at = 0
    for part, alive in zip(flat.split(_PART), mask.reshape(-1).split(_PART), strict=True):
        found = part[alive]
        kept[at : at + len(found)] = found
        at += len(found)
    return kept


@dataclass(frozen=True)
class _Exact:
    lossy: bool = False

    def fit(self, weight: Tensor, mask: Tensor | None) -> Code:
        """Values byte by byte, or an index of each where they are few: what a trained codebook leaves."""
        if weight.dtype.itemsize == 1 or weight.numel() < 2:
            return _Bytes(weight.dtype)
        few = np.zeros(0, _UNSIGNED[weight.itemsize])
        flat, alive = weight.reshape(-1), None if mask is None else mask.reshape(-1)
        most = min(_MOST, (len(flat) if alive is None else count_true(alive)) // 4)  # more would take what they save
        for begin in range(0, len(flat), _PART):
            part = slice(begin, begin + _PART)
            few = np.union1d(few, _bits(_survivors(flat[part], None if alive is None else alive[part])))
            if len(few) > most:
                return _Bytes(weight.dtype)
        return _Codebook(_from_bits(few, weight.dtype), exactly=True)


@dataclass(frozen=True)
class _Shared:
    bits: int
    init: Init
    lossy: bool = True

    def fit(self, weight: Tensor, mask: Tensor | None) -> Code:
        """The codebook of k-means."""
        return _Codebook(codebook_of(_survivors(weight, mask), self.bits, self.init, in_place=True), exactly=False)


@dataclass(frozen=True)
class _Int8:
    lossy: bool = True

    def fit(self, weight: Tensor, mask: Tensor | None) -> Code:
        """For each row its largest magnitude, in 127 steps."""
        rows = weight.flatten(1) if weight.dim() > 1 else weight.reshape(1, -1)
        largest = torch.stack([row.abs().amax().float() for row in rows]) if rows.numel() else torch.zeros(len(rows))
        if not largest.isfinite().all():
            raise SecateurError("eight bits need weights that are finite, got NaN or an infinity.")
        return _Bytewise(torch.where(largest > 0, largest / 127, torch.ones(())), weight.dtype)


@dataclass(frozen=True)
class _Half:
    dtype: torch.dtype
    lossy: bool = True

    def fit(self, weight: Tensor, mask: Tensor | None) -> Code:
        """Values of fewer bits."""
        largest = max(abs(float(end)) for end in weight.aminmax()) if weight.numel() else 0.0
        if largest > torch.finfo(self.dtype).max:
            raise SecateurError(f"values up to {largest:g} do not fit into {self.dtype}.")
        return _Rounded(self.dtype, weight.dtype)


#: Values bit for bit, whatever their type.
exact: Values = _Exact()


def shared(bits: int, init: Init = linear) -> Values:
    """At most 2^bits values that the survivors of a weight share, by k-means (`secateur.coding.shared_values`): lossy.

    >>> shared(5).lossy
    True
    """
    codebook_of(torch.zeros(0), bits)  # refuses bits that no index has
    return _Shared(bits, init)


def int8() -> Values:
    """Whole numbers from -127 to 127 times a scale for each row, its largest magnitude / 127: lossy."""
    return _Int8()


def rounded(dtype: torch.dtype) -> Values:
    """Values rounded to `torch.float16` or `torch.bfloat16`, and given back in their own type: lossy."""
    if dtype not in (torch.float16, torch.bfloat16):
        raise SecateurError(f"`dtype` must be torch.float16 or torch.bfloat16, got {dtype}.")
    return _Half(dtype)
