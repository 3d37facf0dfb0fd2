"""Places as gaps (Deep Compression's relative index): how far from one occupied place to the next."""

from __future__ import annotations

import numpy as np

__all__ = ["decode_gaps", "encode_gaps"]


def encode_gaps(flags: np.ndarray, bits: int) -> np.ndarray:
    """Return the gaps between the occupied places of `flags`, [symbol] of uint8, each of at most `bits` bits.

    A symbol g < 2^bits - 1 steps over g empty places to an occupied one. The largest, 2^bits - 1, is a filler: as many
    empty places, and no occupied one behind them. Empty places behind the last occupied one are not told.

    >>> encode_gaps(np.array([1, 0, 0, 1, 0, 0, 0, 0, 1], np.uint8), 2).tolist()
    [0, 2, 3, 1]
    """
    most = (1 << bits) - 1
    places = np.flatnonzero(flags)
    empty = np.diff(places, prepend=-1) - 1
    fillers = empty // most
    found = np.full(len(empty) + int(fillers.sum()), most, np.uint8)
    found[np.arange(len(empty)) + np.cumsum(fillers)] = empty % most
    return found


def decode_gaps(gaps: np.ndarray, bits: int, size: int) -> np.ndarray:
    """Return `size` flags, uint8, of which `encode_gaps` made these gaps.

    Raises:
        ValueError: they lead past the end, are too large, or end in fillers.
    """
    most = (1 << bits) - 1
    flags = np.zeros(size, np.uint8)
    if not len(gaps):
        return flags
    if gaps.max() > most or gaps[-1] == most:
        raise ValueError(f"its gaps are not of {bits} bits")
    steps = np.where(gaps == most, most, gaps.astype(np.int64) + 1)
    places = np.cumsum(steps)[gaps != most] - 1
    if places[-1] >= size:
        raise ValueError("its gaps lead past the end")
    flags[places] = 1
    return flags
