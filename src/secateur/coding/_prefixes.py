"""Bytes by canonical Huffman codes, as Deep Compression has them: whole bits for each, never less than one.

In native/coding/symbols.cpp the same is compiled; both write the same bytes. docs/archive.md says what they are.
"""

from __future__ import annotations

import heapq

import numpy as np

from secateur._base import door
from secateur.coding._cursor import Cursor

__all__ = ["code_lengths", "decode_prefixes", "encode_prefixes"]

_ALPHABET, _LONGEST = 256, 31


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return the bits of each symbol's Huffman code, uint8; none where it does not occur, nor where it is alone.

        H ≤ Σ counts · lengths / Σ counts < H + 1

    >>> code_lengths(np.array([8, 4, 2, 2])).tolist()
    [1, 2, 3, 3]
    """
    found = np.zeros(len(counts), np.uint8)
    heap = [(int(count), symbol, [symbol]) for symbol, count in enumerate(counts.tolist()) if count]
    heapq.heapify(heap)
    while len(heap) > 1:
        one, two = heapq.heappop(heap), heapq.heappop(heap)
        members = one[2] + two[2]
        found[members] += 1
        heapq.heappush(heap, (one[0] + two[0], min(one[1], two[1]), members))
    return found


def encode_prefixes(symbols: np.ndarray) -> bytes:
    """Return a table of code lengths and the symbols, [symbol] of uint8, as bytes.

    The table: the largest symbol, then five bits for the length of each up to it. A symbol that is alone needs no code.
    """
    if not len(symbols):
        return b""
    counts = np.bincount(symbols, minlength=_ALPHABET)
    last = int(symbols.max())
    if (counts > 0).sum() == 1:
        return bytes([last, 255])
    lengths = code_lengths(counts)
    bits = (lengths[: last + 1, None] >> np.arange(4, -1, -1)) & 1
    table = bytes([last]) + np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
    if door.native is not None:
        return table + door.native.encode_prefixes(symbols, lengths)
    return table + _encoded(symbols, lengths)


def decode_prefixes(content: bytes, size: int) -> np.ndarray:
    """Return the `size` symbols that `encode_prefixes` wrote.

    Raises:
        ValueError: the bytes are none that it writes.
    """
    found = np.empty(size, np.uint8)
    if not size:
        if content:
            raise ValueError("no symbols have bytes")
        return found
    cursor = Cursor(content)
    last = cursor.byte()
    if content[1:] == b"\xff":
        found[:] = last
        return found
    bits = np.unpackbits(np.frombuffer(cursor.take((5 * (last + 1) + 7) // 8), np.uint8))
    lengths = np.zeros(_ALPHABET, np.uint8)
    lengths[: last + 1] = bits[: 5 * (last + 1)].reshape(-1, 5) @ np.array([16, 8, 4, 2, 1], np.uint8)
    some = lengths[lengths > 0].astype(np.int64)
    if bits[5 * (last + 1) :].any() or int((1 << (_LONGEST - some)).sum()) != 1 << _LONGEST:  # Kraft's equality
        raise ValueError("its code lengths make no code")
    rest = cursor.take(cursor.left)
    if door.native is not None:
        wrong = door.native.decode_prefixes(np.frombuffer(rest, np.uint8), lengths, found)
        if wrong:
            raise ValueError(f"a stream of codes {wrong}")
        return found
    found[:] = _decoded(rest, lengths, size)
    return found


def _canonical(lengths: np.ndarray) -> dict[tuple[int, int], int]:
    """Length and code → symbol: shorter ones first, among equals the smaller symbol."""
    found, code, before = {}, 0, 0
    for length, symbol in sorted((int(length), symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        found[length, code] = symbol
        code, before = code + 1, length
    return found


def _encoded(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    texts = [""] * _ALPHABET
    for (length, code), symbol in _canonical(lengths).items():
        texts[symbol] = f"{code:0{length}b}"
    text = "".join(texts[symbol] for symbol in symbols.tolist())
    bits = np.frombuffer(text.encode(), np.uint8) - ord("0")
    return np.packbits(bits).tobytes()


def _decoded(content: bytes, lengths: np.ndarray, size: int) -> list[int]:
    codes, found, at = _canonical(lengths), [], 0
    bits = np.unpackbits(np.frombuffer(content, np.uint8)).tolist()
    for _ in range(size):
        code = length = 0
        while (length, code) not in codes:
            if at == len(bits) or length == _LONGEST:
                raise ValueError("a stream of codes ends too early, or holds a code that is none")
            code, length, at = code << 1 | bits[at], length + 1, at + 1
        found.append(codes[length, code])
    if any(bits[at:]):
        raise ValueError("a stream of codes has bits set behind its last code")
    if len(bits) - at >= 8:
        raise ValueError("a stream of codes has bytes left over")
    return found
