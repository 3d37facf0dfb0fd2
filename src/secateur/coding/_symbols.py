"""Bytes by asymmetric numeral systems: each costs what its frequency says, less than one bit where it is frequent.

In native/coding/symbols.cpp the same is compiled; both write the same bytes. docs/archive.md says what they are.
"""

from __future__ import annotations

import numpy as np

from secateur._base import door
from secateur.coding._cursor import Cursor, number

__all__ = ["decode_symbols", "encode_symbols"]

_LOWEST = 1 << 16  # state
_SCALES = (8, 9, 10, 11, 12, 14)  # that are tried: a power of two to which frequencies add up
_MANY = 4096  # symbols from which on four states take turns
_ALPHABET = 256


def encode_symbols(symbols: np.ndarray) -> bytes:
    """Return a table of frequencies and the symbols, [symbol] of uint8, as bytes."""
    if not len(symbols):
        return b""
    counts = np.bincount(symbols, minlength=_ALPHABET)
    table, frequencies, scale = min(
        (_table(counts, scale) for scale in _SCALES if (counts > 0).sum() <= 1 << scale),
        key=lambda found: len(found[0]) + _cost(counts, found[1], found[2]),
    )
    lanes = 4 if len(symbols) >= _MANY else 1
    if door.native is not None:
        return table + door.native.encode_symbols(symbols, frequencies, scale, lanes)
    return table + _encoded(symbols.tolist(), frequencies.tolist(), scale, lanes)


def decode_symbols(content: bytes, size: int) -> np.ndarray:
    """Return the `size` symbols that `encode_symbols` wrote.

    Raises:
        ValueError: the bytes are none that it writes.
    """
    found = np.empty(size, np.uint8)
    if not size:
        if content:
            raise ValueError("no symbols have bytes")
        return found
    cursor = Cursor(content)
    frequencies, scale = _read_table(cursor)
    rest, lanes = cursor.take(cursor.left), 4 if size >= _MANY else 1
    if door.native is not None:
        wrong = door.native.decode_symbols(np.frombuffer(rest, np.uint8), frequencies, scale, lanes, found)
        if wrong:
            raise ValueError(f"a stream of symbols {wrong}")
        return found
    found[:] = _decoded(rest, frequencies.tolist(), scale, lanes, size)
    return found


def _cost(counts: np.ndarray, frequencies: np.ndarray, scale: int) -> float:
    """How many bytes the symbols will take."""
    some = counts > 0
    return float((counts[some] * (scale - np.log2(frequencies[some]))).sum() / 8)


def _table(counts: np.ndarray, scale: int) -> tuple[bytes, np.ndarray, int]:
    """How frequencies are told, and they: near the counts, at least one where there is one, 2^scale in all."""
    total, size = int(counts.sum()), 1 << scale
    found = np.where(counts > 0, np.maximum(1, (counts * size + total // 2) // total), 0).astype(np.int64)
    while (over := int(found.sum()) - size) != 0:  # where one more or less costs least
        if over < 0:
            found[np.argmax(np.where(counts > 0, counts / np.maximum(found, 1), -1))] += 1
        else:
            found[np.argmin(np.where(found > 1, counts / np.maximum(found - 1, 1), np.inf))] -= 1
    table, symbol, left = bytearray([scale]), 0, size
    while left:
        table += number(int(found[symbol]))
        left -= int(found[symbol])
        if found[symbol]:
            symbol += 1
            continue
        zeros = int(np.argmax(found[symbol:] > 0))
        table += number(zeros - 1)
        symbol += zeros
    return bytes(table), found.astype(np.uint32), scale


def _read_table(cursor: Cursor) -> tuple[np.ndarray, int]:
    scale = cursor.byte()
    if not 1 <= scale <= 14:
        raise ValueError(f"its frequencies have the scale {scale}")
    found, symbol, left = np.zeros(_ALPHABET, np.uint32), 0, 1 << scale
    while left:
        if symbol >= _ALPHABET:
            raise ValueError("its frequencies do not add up")
        found[symbol] = cursor.number(left)
        left -= int(found[symbol])
        symbol += 1 if found[symbol] else 1 + cursor.number(_ALPHABET)
    return found, scale


def _starts(frequencies: list[int]) -> list[int]:
    return [0, *np.cumsum(frequencies).tolist()]


def _encoded(symbols: list[int], frequencies: list[int], scale: int, lanes: int) -> bytes:
    states, words, starts = [_LOWEST] * lanes, [], _starts(frequencies)
    for index in range(len(symbols) - 1, -1, -1):
        symbol, lane = symbols[index], index % lanes
        frequency, state = frequencies[symbol], states[lane]
        if state >= frequency << (32 - scale):
            words.append(state & 0xFFFF)
            state >>= 16
        states[lane] = (state // frequency << scale) + state % frequency + starts[symbol]
    words.reverse()
    return np.array(states, "<u4").tobytes() + np.array(words, "<u2").tobytes()


def _decoded(content: bytes, frequencies: list[int], scale: int, lanes: int, size: int) -> list[int]:
    if len(content) < 4 * lanes or len(content) % 2:
        raise ValueError("a stream of symbols has no whole states")
    states = np.frombuffer(content, "<u4", lanes).tolist()
    words = np.frombuffer(content, "<u2", offset=4 * lanes).tolist()
    if min(states) < _LOWEST:
        raise ValueError("a stream of symbols begins in a state that no encoder is in")
    starts, mask, at, found = _starts(frequencies), (1 << scale) - 1, 0, []
    slots = np.repeat(np.arange(_ALPHABET), frequencies).tolist()
    for index in range(size):
        state = states[index % lanes]
        slot = state & mask
        symbol = slots[slot]
        state = frequencies[symbol] * (state >> scale) + slot - starts[symbol]
        if state < _LOWEST:
            if at == len(words):
                raise ValueError("a stream of symbols ends too early")
            state = state << 16 | words[at]
            at += 1
        states[index % lanes] = state
        found.append(symbol)
    if at != len(words):
        raise ValueError("a stream of symbols has bytes left over")
    if any(state != _LOWEST for state in states):
        raise ValueError("a stream of symbols does not end where its encoder began")
    return found
