"""How it is told which weights are there: all of them, a bit for each, gaps, or by a model of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from secateur._base.errors import SecateurError
from secateur.coding import Coder, Cursor, Places, decode_gaps, encode_gaps, number, read_stream, written

__all__ = ["Reader", "Support", "Writer", "bitmap", "everything", "gaps", "modelled", "read_support"]


@runtime_checkable
class Writer(Protocol):
    """The support of one tensor on its way into bytes."""

    @property
    def head(self) -> bytes:
        """What is to be known before the first part."""
        ...

    def part(self, flags: np.ndarray, coders: Sequence[Coder]) -> bytes:
        """The next entries' flags, uint8, as bytes."""
        ...


@runtime_checkable
class Reader(Protocol):
    """The support of one tensor on its way back."""

    def part(self, cursor: Cursor, size: int) -> np.ndarray:
        """The flags of the next `size` entries, uint8."""
        ...

    def bound(self, flags: np.ndarray) -> float:
        """The bits that the flags just read need at least by the model that was chosen."""
        ...


@runtime_checkable
class Support(Protocol):
    """A choice of how it is told which weights are there: `modelled`, `gaps(bits)`, `bitmap`."""

    @property
    def kind(self) -> int:
        """The number of the kind in a file."""
        ...

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def begin(self, shape: tuple[int, ...], density: float) -> Writer:
        """Begin with a tensor."""
        ...


class _AllWriter:
    head = b""

    def part(self, flags: np.ndarray, coders: Sequence[Coder]) -> bytes:
        return b""


class _AllReader:
    def part(self, cursor: Cursor, size: int) -> np.ndarray:
        return np.ones(size, np.uint8)

    def bound(self, flags: np.ndarray) -> float:
        return 0.0


@dataclass(frozen=True)
class _All:
    kind: int = 0
    name: str = "all"

    def begin(self, shape: tuple[int, ...], density: float) -> Writer:
        return _AllWriter()


class _BitmapWriter:
    head = b""

    def part(self, flags: np.ndarray, coders: Sequence[Coder]) -> bytes:
        return written(np.packbits(flags), coders)[0]


class _BitmapReader:
    def part(self, cursor: Cursor, size: int) -> np.ndarray:
        packed, self._coder = read_stream(cursor, (size + 7) // 8)
        flags = np.unpackbits(packed)
        if flags[size:].any():
            raise ValueError("its bitmap has bits set behind the last weight")
        return flags[:size]

    def bound(self, flags: np.ndarray) -> float:
        return self._coder.bound(np.packbits(flags))


@dataclass(frozen=True)
class _Bitmap:
    kind: int = 1
    name: str = "bitmap"

    def begin(self, shape: tuple[int, ...], density: float) -> Writer:
        return _BitmapWriter()


class _GapsWriter:
    def __init__(self, bits: int) -> None:
        self._bits, self.head = bits, bytes([bits])

    def part(self, flags: np.ndarray, coders: Sequence[Coder]) -> bytes:
        found = encode_gaps(flags, self._bits)
        return number(len(found)) + written(found, coders)[0]


class _GapsReader:
    def __init__(self, bits: int) -> None:
        if not 1 <= bits <= 8:
            raise ValueError(f"its gaps are of {bits} bits")
        self._bits = bits

    def part(self, cursor: Cursor, size: int) -> np.ndarray:
        found, self._coder = read_stream(cursor, cursor.number(size))
        return decode_gaps(found, self._bits, size)

    def bound(self, flags: np.ndarray) -> float:
        return self._coder.bound(encode_gaps(flags, self._bits))


@dataclass(frozen=True)
class _Gaps:
    bits: int
    kind: int = 2

    @property
    def name(self) -> str:
        return f"gaps({self.bits})"

    def begin(self, shape: tuple[int, ...], density: float) -> Writer:
        return _GapsWriter(self.bits)


class _ModelWriter:
    def __init__(self, shape: tuple[int, ...], density: float) -> None:
        begin = min(65535, max(1, round(65536 * density)))
        self._places, self.head = Places(shape, begin), begin.to_bytes(2, "little")

    def part(self, flags: np.ndarray, coders: Sequence[Coder]) -> bytes:
        content, _ = self._places.encode(flags)
        return number(len(content)) + content


class _ModelReader:
    def __init__(self, shape: tuple[int, ...], begin: int) -> None:
        if begin < 1:
            raise ValueError("its model of places begins with 0")
        self._places = Places(shape, begin)
        self._again = lambda: Places(shape, begin)
        self._model: Places | None = None

    def part(self, cursor: Cursor, size: int) -> np.ndarray:
        flags = np.empty(size, np.uint8)
        self._places.decode(cursor.take(cursor.number(cursor.left)), flags)
        return flags

    def bound(self, flags: np.ndarray) -> float:
        self._model = self._model or self._again()
        return self._model.encode(flags)[1]


@dataclass(frozen=True)
class _Modelled:
    kind: int = 3
    name: str = "modelled"

    def begin(self, shape: tuple[int, ...], density: float) -> Writer:
        return _ModelWriter(shape, density)


#: All weights are there.
everything: Support = _All()
#: One bit for each weight, eight in a byte, and the bytes coded.
bitmap: Support = _Bitmap()
#: Each place by an adaptive model of its row, its column and its neighbours, and a range coder.
modelled: Support = _Modelled()


def gaps(bits: int) -> Support:
    """How far it is from each survivor to the next, in `bits` bits, 1 to 8; what is further needs fillers.

    Deviates:
        Deep Compression stores a zero with every filler; here a filler has no value.
    """
    if type(bits) is not int or not 1 <= bits <= 8:
        raise SecateurError(f"`bits` of a gap must be a whole number from 1 to 8, got {bits!r}.")
    return _Gaps(bits)


def read_support(kind: int, cursor: Cursor, shape: tuple[int, ...]) -> tuple[Reader, str]:
    """Read the head of a support; return what reads it, and its name.

    Raises:
        ValueError: it is none.
    """
    if kind == 0:
        return _AllReader(), "all"
    if kind == 1:
        return _BitmapReader(), "bitmap"
    if kind == 2:
        bits = cursor.byte()
        return _GapsReader(bits), f"gaps({bits})"
    if kind == 3:
        return _ModelReader(shape, int.from_bytes(cursor.take(2), "little")), "modelled"
    raise ValueError(f"its support is of a kind {kind} that there is not")
