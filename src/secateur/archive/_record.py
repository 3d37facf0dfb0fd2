"""One tensor as a record of bytes: its head, then block after block its support and its values, and a checksum."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from secateur.archive._stored import CHECKSUM, Stored, cursor_of, is_whole
from secateur.archive._supports import Reader, Support, everything, read_support
from secateur.archive._values import DTYPES, Code, Values, read_code
from secateur.coding import Coder, Cursor, number, read_stream, written

__all__ = ["BLOCK", "Head", "Part", "parts", "read", "read_head", "write"]

#: Entries of a block, as a power of two: what is in memory at a time besides the record; and of the largest there is.
BLOCK, _LARGEST = 18, 20
#: Bytes of a tensor that stand behind one byte of its record at most, so that a small file never asks for much memory.
MOST = 4096
_DIMENSIONS, _LONGEST = 64, 1 << 48


@dataclass(frozen=True)
class Head:
    """What a record says of its tensor.

    Attributes:
        dtype, shape: of the tensor.
        masked: whether its support is a mask, rather than where it happens not to be zero.
        block: entries of a block, as a power of two.
        support: the name of how its support is told.
        values: the kind of its values.
        codebook: bytes of what its values are told by.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    masked: bool
    block: int
    support: str
    values: int
    codebook: int

    @property
    def numel(self) -> int:
        """How many entries the tensor has."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes the tensor takes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Part:
    """One block, read: where it begins, its flags and survivors, the bytes of both, and the bits they need at least."""

    begin: int
    flags: np.ndarray
    values: Tensor
    support_bytes: int
    value_bytes: int
    bound: Callable[[], float]


# ------------------------------------------------------------------ writing
def write(
    sink: Callable[[bytes], object],
    weight: Tensor,
    mask: Tensor | None,
    values: Values,
    supports: Sequence[Support],
    coders: Sequence[Coder],
    *,
    masked: bool,
    block: int = BLOCK,
) -> float:
    """Write the record of a tensor, piece by piece; return Σ (w − w')², the squared error of what was written.

    Args:
        sink: takes the pieces.
        weight: on the CPU, contiguous.
        mask: of its shape: which entries are there; None for all.
        values: what becomes of them.
        supports: the candidates for how it is told which are there; the shortest is taken.
        coders: those of bytes, of which each stream has the shortest.
        masked: whether the mask is one, rather than where the weight is not zero.
        block: entries of a block, as a power of two.
    """
    shape, flat = tuple(weight.shape), weight.reshape(-1)
    alive = None if mask is None else mask.reshape(-1).numpy().view(np.uint8)
    support, head, told = _shortest(shape, alive, supports, coders, block)
    code = values.fit(weight, mask)
    begin = b"".join(
        (
            bytes([DTYPES.index(weight.dtype), int(masked), len(shape)]),
            *(number(size) for size in shape),
            bytes([block, support.kind]),
            head,
            bytes([code.kind]),
            code.head,
        )
    )
    seal = _Seal(sink)
    seal(begin)
    error, size = 0.0, 1 << block
    for index, start in enumerate(range(0, flat.numel(), size)):
        part = flat[start : start + size]
        flags = None if alive is None else alive[start : start + size]
        seal(told[index])
        error += _write_values(seal, code, part, flags, start, shape, coders)
    room = -(-flat.numel() * weight.itemsize // MOST) - seal.size - CHECKSUM
    padding = number(max(0, room)) + bytes(max(0, room))
    seal(padding)
    sink(seal.sum.to_bytes(CHECKSUM, "little"))
    return error


class _Seal:
    """A sink that counts what goes through, and its checksum."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink, self.size, self.sum = sink, 0, 0

    def __call__(self, content: bytes) -> None:
        self._sink(content)
        self.size += len(content)
        self.sum = zlib.crc32(content, self.sum)


def _shortest(
    shape: tuple[int, ...],
    alive: np.ndarray | None,
    supports: Sequence[Support],
    coders: Sequence[Coder],
    block: int,
) -> tuple[Support, bytes, list[bytes]]:
    """The support that takes the fewest bytes, its head, and what it says block by block."""
    total, size = prod(shape), 1 << block
    blocks = range(0, total, size)
    if alive is None or bool(alive.all()):
        return everything, b"", [b""] * len(blocks)
    found = []
    for support in supports:
        writer = support.begin(shape, int(alive.sum(dtype=np.int64)) / max(total, 1))
        told = [writer.part(alive[start : start + size], coders) for start in blocks]
        found.append((len(writer.head) + sum(map(len, told)), support, writer.head, told))
    _, support, head, told = min(found, key=lambda each: each[0])
    return support, head, told


def _write_values(
    seal: _Seal,
    code: Code,
    part: Tensor,
    flags: np.ndarray | None,
    start: int,
    shape: tuple[int, ...],
    coders: Sequence[Coder],
) -> float:
    survivors = part if flags is None else part[torch.from_numpy(flags).view(torch.bool)]
    rows = _rows(code, flags, start, len(part), shape)
    planes = code.encode(survivors, rows)
    for plane in planes:
        seal(written(plane, coders)[0])
    back = code.decode(planes, rows)
    if not len(back) or torch.equal(back.view(_as_bits(back.dtype)), survivors.contiguous().view(_as_bits(back.dtype))):
        return 0.0
    return float((back.double() - survivors.double()).square_().sum())


def _rows(code: Code, flags: np.ndarray | None, start: int, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """The row of each survivor, for codes that ask."""
    if code.kind != 2:
        return np.zeros(0, np.int64)
    places = np.arange(size) if flags is None else np.flatnonzero(flags)
    return (places + start) // (prod(shape[1:]) if len(shape) > 1 else prod(shape))


# ------------------------------------------------------------------ reading
def read_head(content: bytes | Stored) -> Head:
    """Read what a record says of its tensor; nothing is decoded.

    Raises:
        ValueError: it says nothing that could be true.
    """
    return _begin(cursor_of(content, len(content)), len(content))[0]


def parts(content: bytes | Stored) -> Iterator[Part]:
    """Read a record block by block; its checksum is compared first, its end last.

    Raises:
        ValueError: it is damaged.
    """
    if not is_whole(content):
        raise ValueError("its checksum is another")
    cursor = cursor_of(content, len(content) - CHECKSUM)
    head, reader, code = _begin(cursor, len(content))
    size = 1 << head.block
    for start in range(0, head.numel, size):
        length, before = min(size, head.numel - start), cursor.left
        flags = reader.part(cursor, length)
        middle, kept = cursor.left, int(np.count_nonzero(flags))
        streams = [read_stream(cursor, kept) for _ in range(code.planes)]
        values = code.decode([plane for plane, _ in streams], _rows(code, flags, start, length, head.shape))
        bound = partial(_bound, reader, flags, streams)
        yield Part(start, flags, values, before - middle, middle - cursor.left, bound)
    if any(cursor.take(cursor.number(cursor.left))) or cursor.left:
        raise ValueError("it has bytes left over")


def _bound(reader: Reader, flags: np.ndarray, streams: Sequence[tuple[np.ndarray, Coder]]) -> float:
    return reader.bound(flags) + sum(coder.bound(plane) for plane, coder in streams)


def read(content: bytes | Stored, into: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Read a record: its tensor, and its mask where it has one and no memory was given.

    Args:
        content: of the record.
        into: memory for the tensor, of its type and shape; None makes some.

    Raises:
        ValueError: it is damaged.
    """
    head = read_head(content)
    full = torch.zeros(head.shape, dtype=head.dtype) if into is None else into
    mask = torch.ones(head.shape, dtype=torch.bool) if head.masked and into is None else None
    flat, bits = full.view(-1), None if mask is None else mask.view(-1)
    for part in parts(content):
        end = part.begin + len(part.flags)
        if len(part.values) == len(part.flags):
            flat[part.begin : end] = part.values
            continue
        flags = torch.from_numpy(part.flags).view(torch.bool)
        if into is not None:
            flat[part.begin : end] = 0
        flat[part.begin : end].view(_as_bits(head.dtype)).masked_scatter_(flags, part.values.view(_as_bits(head.dtype)))
        if bits is not None:
            bits[part.begin : end] = flags
    return full, mask


def _as_bits(dtype: torch.dtype) -> torch.dtype:
    """A type of as many bytes that every operation knows."""
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]


def _begin(cursor: Cursor, size: int) -> tuple[Head, Reader, Code]:
    which, flags, dimensions = cursor.byte(), cursor.byte(), cursor.byte()
    if which >= len(DTYPES) or flags > 1 or dimensions > _DIMENSIONS:
        raise ValueError("its head is none")
    dtype, shape = DTYPES[which], tuple(cursor.number(_LONGEST) for _ in range(dimensions))
    if prod(max(n, 1) for n in shape) >= 1 << 62:
        raise ValueError(f"it has the shape {shape}")
    if prod(shape) * dtype.itemsize > MOST * size:
        raise ValueError(f"it claims the shape {shape} in {size:,} bytes")
    block = cursor.byte()
    if not 1 <= block <= _LARGEST:
        raise ValueError(f"it has blocks of 2^{block} entries")
    if prod(shape) > size << block:
        raise ValueError(f"it claims {prod(shape) >> block:,} blocks in {size:,} bytes")
    reader, name = read_support(cursor.byte(), cursor, shape)
    kind = cursor.byte()
    rows = shape[0] if len(shape) > 1 else 1
    code = read_code(kind, cursor, dtype, rows)
    return Head(dtype, shape, bool(flags), block, name, kind, len(code.head)), reader, code
