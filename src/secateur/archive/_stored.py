"""A record where it lies: in memory, or in a file that is read a piece at a time."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import BinaryIO

from secateur.coding import Cursor, FileCursor

__all__ = ["CHECKSUM", "Stored", "cursor_of", "is_whole"]

CHECKSUM = 4  # bytes at the end
_PIECE = 1 << 20  # bytes of which the checksum is taken at a time


@dataclass(frozen=True)
class Stored:
    """A record in a file, from `begin` on, `size` bytes long: read a piece at a time."""

    file: BinaryIO
    begin: int
    size: int

    def __len__(self) -> int:
        return self.size


def cursor_of(content: bytes | Stored, size: int) -> Cursor:
    """Through the first `size` bytes."""
    if isinstance(content, Stored):
        return FileCursor(content.file, content.begin, size)
    return Cursor(memoryview(content)[:size])


def is_whole(content: bytes | Stored) -> bool:
    """Whether the checksum at its end is that of the rest."""
    cursor, found = cursor_of(content, len(content)), 0
    while (left := cursor.left - CHECKSUM) > 0:
        found = zlib.crc32(cursor.take(min(left, _PIECE)), found)
    return cursor.left == CHECKSUM and found == int.from_bytes(cursor.take(CHECKSUM), "little")
