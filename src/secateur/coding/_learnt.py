"""Bytes by what came before each: no table is told, which pays where they are few.

In native/coding/learnt.h the same is compiled; both write the same bytes. docs/archive.md says what they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from secateur._base import door
from secateur.coding._cursor import Cursor
from secateur.coding._ranges import RangeDecoder, RangeEncoder

__all__ = ["decode_learnt", "encode_learnt"]

_MOST_SEEN = 32767


def encode_learnt(symbols: np.ndarray) -> bytes:
    """Return the bits of the largest symbol and the symbols, [symbol] of uint8, as bytes.

    Each bit costs what the counts at its node say, P(1) = (ones + ½) / (ones + zeros + 1), Krichevsky and Trofimov's
    estimate: at most ½ log₂ n + 1 bits a node above what the symbols need that had told all counts beforehand.
    """
    if not len(symbols):
        return b""
    bits = max(1, int(symbols.max()).bit_length())
    if door.native is not None:
        return bytes([bits]) + door.native.encode_learnt(symbols, bits)
    encoder, given = RangeEncoder(), symbols.tolist()

    def code(index: int, level: int, probability: int) -> int:
        bit = given[index] >> level & 1
        encoder.write(bit, probability)
        return bit

    _walk(bits, len(given), code)
    return bytes([bits]) + encoder.finish()


def decode_learnt(content: bytes, size: int) -> np.ndarray:
    """Return the `size` symbols that `encode_learnt` wrote.

    Raises:
        ValueError: the bytes are none that it writes.
    """
    found = np.zeros(size, np.uint8)
    if not size:
        if content:
            raise ValueError("no symbols have bytes")
        return found
    cursor = Cursor(content)
    bits = cursor.byte()
    if not 1 <= bits <= 8:
        raise ValueError(f"its symbols have {bits} bits")
    rest = cursor.take(cursor.left)
    if door.native is not None:
        done = door.native.decode_learnt(np.frombuffer(rest, np.uint8), bits, found)
    else:
        decoder, symbols = RangeDecoder(rest), [0] * size

        def code(index: int, level: int, probability: int) -> int:
            bit = decoder.read(probability)
            symbols[index] = symbols[index] << 1 | bit
            return bit

        _walk(bits, size, code)
        found[:] = symbols
        done = decoder.done
    if not done:
        raise ValueError("a stream of symbols has bytes left over")
    return found


def _walk(bits: int, size: int, code: Callable[[int, int, int], int]) -> None:
    seen = [[0, 0] for _ in range(1 << bits)]
    for index in range(size):
        node = 1
        for level in range(bits - 1, -1, -1):
            counts = seen[node]
            bit = int(code(index, level, ((2 * counts[1] + 1) << 15) // (counts[0] + counts[1] + 1)))
            counts[bit] += 1
            if counts[0] + counts[1] == _MOST_SEEN:
                counts[0] >>= 1
                counts[1] >>= 1
            node = 2 * node + bit
