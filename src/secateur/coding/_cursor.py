"""Numbers of few bytes, and a reader that never reads past an end."""

from __future__ import annotations

from typing import BinaryIO

__all__ = ["Cursor", "FileCursor", "number"]


def number(value: int) -> bytes:
    """A whole number in as few bytes as it needs: seven bits in each, the lowest first, the highest bit for "more".

    >>> number(5), number(300)
    (b'\\x05', b'\\xac\\x02')
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Read through bytes from their beginning to their end.

    Every method raises ValueError where the bytes end too early.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self._content, self._at = memoryview(content), 0

    @property
    def left(self) -> int:
        """How many bytes there are still."""
        return len(self._content) - self._at

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > self.left:
            raise ValueError(f"it ends {size - self.left:,} bytes too early")
        self._at += size
        return bytes(self._content[self._at - size : self._at])

    def number(self, most: int) -> int:
        """The next whole number, at most `most`."""
        value = byte = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                break
        if value > most or byte > 127:
            raise ValueError(f"a number is larger than {most:,}")
        return value


class FileCursor(Cursor):
    """Read through a part of a file, from `begin` on and `size` bytes long: nothing but what is taken is in memory."""

    def __init__(self, file: BinaryIO, begin: int, size: int) -> None:
        super().__init__(b"")
        self._file, self._begin, self._size = file, begin, size

    @property
    def left(self) -> int:
        """How many bytes there are still."""
        return self._size - self._at

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size <= self.left:
            self._file.seek(self._begin + self._at)
            found = self._file.read(size)
            self._at += len(found)
            if len(found) == size:
                return found
        raise ValueError(f"it ends {size - self.left:,} bytes too early")
