"""Which places of a matrix are occupied, in few bits: an adaptive model of its rows and columns, and a range coder.

In native/coding/places.h the same is compiled; both write the same bytes. docs/archive.md says what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any

import numpy as np

from secateur._base import door
from secateur.coding._ranges import RangeDecoder, RangeEncoder

__all__ = ["Places"]

# Where the steps end, in 4,096ths: the logistic function at -7.5, -6.75, ... 3 and at -5.25, ... 2.25.
_COLUMN_EDGES = (2, 5, 10, 21, 45, 94, 194, 391, 748, 1315, 2048, 2781, 3348, 3705, 3902)
_ROW_EDGES = (21, 45, 94, 194, 391, 748, 1315, 2048, 2781, 3348, 3705)
# With what each column's contexts begin, in 65,536ths: the logistic function in the middle of its step.
_BEGIN = (25, 53, 112, 236, 499, 1049, 2191, 4497, 8962, 16987, 29404, 42427, 52771, 59288, 62734, 64188)
_SLOWEST_COLUMN, _SLOWEST_ROW, _SLOWEST_CONTEXT = 60, 16, 1022
_ALWAYS = 0xFFFFFFFF
_ROWS, _WIDTH = 8, 1024  # a matrix of fewer rows tells nothing of its columns: it is read in rows of this width


def _steps(edges: tuple[int, ...]) -> list[int]:
    return np.searchsorted(np.array(edges), np.arange(4096), "right").tolist()


class Places:
    """What has been learnt of a tensor's occupied places; coding goes from its first entry to its last, in parts.

    Args:
        shape: of the tensor; its first dimension counts rows.
        begin: how often a place is occupied, as 1 to 65,535 of 65,536.
    """

    def __init__(self, shape: tuple[int, ...], begin: int) -> None:
        width = int(np.prod(shape[1:], dtype=object)) if len(shape) > 1 else 1
        total = int(np.prod(shape, dtype=object))
        if len(shape) < 2 or shape[0] < _ROWS:
            width = min(max(total, 1), _WIDTH)
        self._columns = np.full(max(width, 1), begin << 16, np.uint32)
        self._above = np.zeros(max(width, 1), np.uint8)
        self._context = np.repeat(np.array(_BEGIN, np.uint32) << 16, (len(_ROW_EDGES) + 1) * 8)
        self._seen = np.full(len(self._context), 2, np.uint16)
        self._row = np.array([begin << 16, begin << 16, 0], np.uint32)
        self._place = 0

    def encode(self, flags: np.ndarray) -> tuple[bytes, float]:
        """Return the next part, [entry] of uint8, as bytes; and the bits that it costs by the model."""
        if door.native is not None:
            content, bits = door.native.encode_places(flags, self._place, *self._state())
            self._place += len(flags)
            return content, bits
        encoder, costs, given = RangeEncoder(), [0.0], flags.tolist()

        def code(index: int, probability: int) -> int:
            bit = given[index]
            encoder.write(bit, probability)
            costs[0] -= log2((probability if bit else 65536 - probability) / 65536)
            return bit

        self._walk(len(flags), code)
        return encoder.finish(), costs[0]

    def decode(self, content: bytes, flags: np.ndarray) -> None:
        """Write the next part, as long as `flags`, into it.

        Raises:
            ValueError: the bytes do not end where the part does.
        """
        if door.native is not None:
            done = door.native.decode_places(np.frombuffer(content, np.uint8), flags, self._place, *self._state())
            self._place += len(flags)
        else:
            decoder, found = RangeDecoder(content), [0] * len(flags)

            def code(index: int, probability: int) -> int:
                found[index] = bit = decoder.read(probability)
                return bit

            self._walk(len(flags), code)
            flags[:] = found
            done = decoder.done
        if not done:
            raise ValueError("its places have bytes left over")

    def _state(self) -> tuple[Any, ...]:
        return self._columns, self._above, self._context, self._seen, self._row

    def _walk(self, size: int, code: Callable[[int, int], int]) -> None:
        """Code `size` places, one after another, and learn from each."""
        columns, above, context, seen = (array.tolist() for array in self._state()[:4])
        often, first, before = self._row.tolist()
        column_steps, row_steps = _steps(_COLUMN_EDGES), _steps(_ROW_EDGES)
        row, column = divmod(self._place, len(columns))
        for index in range(size):
            if column == 0:
                often, before = first, 0
            column_rate = 65536 * 5 // (5 * row + 8) if row < _SLOWEST_COLUMN else 65536 // _SLOWEST_COLUMN
            row_rate = 65536 // (column + 6) if column < _SLOWEST_ROW - 6 else 65536 // _SLOWEST_ROW
            which = (column_steps[columns[column] >> 20] * 12 + row_steps[often >> 20]) * 8 + before + 4 * above[column]
            bit = code(index, max(1, context[which] >> 16))
            target = _ALWAYS if bit else 0
            context[which] += (target - context[which]) * (65536 // (seen[which] + 2)) >> 16
            seen[which] += seen[which] < _SLOWEST_CONTEXT
            columns[column] += (target - columns[column]) * column_rate >> 16
            often += (target - often) * row_rate >> 16
            before, above[column] = (before << 1 | bit) & 3, int(bit)
            column += 1
            if column == len(columns):
                row, column = row + 1, 0
        self._columns[:], self._above[:], self._context[:], self._seen[:] = columns, above, context, seen
        self._row[:] = often, first, before
        self._place += size
