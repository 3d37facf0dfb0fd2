"""Coders of bytes, to choose among: as they are, in as many bits as they need, by Huffman, or by their frequencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.coding._cursor import Cursor, number
from secateur.coding._learnt import decode_learnt, encode_learnt
from secateur.coding._prefixes import decode_prefixes, encode_prefixes
from secateur.coding._symbols import decode_symbols, encode_symbols

__all__ = ["CODERS", "Coder", "entropy", "huffman", "learnt", "packed", "plain", "ranked", "read_stream", "written"]


@dataclass(frozen=True)
class Coder:
    """One way from bytes, [symbol] of uint8, to fewer bytes and back.

    Attributes:
        name: for reports.
        encode: symbols → content.
        decode: content and the number of symbols → symbols; raises ValueError for what `encode` does not write.
        bound: the bits that symbols need at least by the model behind the coder.
    """

    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, int], np.ndarray]
    bound: Callable[[np.ndarray], float]


def entropy(symbols: np.ndarray) -> float:
    """Return the bits that the symbols need at least where each comes by its frequency alone: n · H."""
    counts = np.bincount(symbols, minlength=1)
    some = counts[counts > 0].astype(np.float64)
    return float(-(some * np.log2(some / max(len(symbols), 1))).sum())


def _as_they_are(content: bytes, size: int) -> np.ndarray:
    if len(content) != size:
        raise ValueError(f"{size:,} bytes were expected, and there are {len(content):,}")
    return np.frombuffer(content, np.uint8)


def _pack(symbols: np.ndarray) -> bytes:
    if not len(symbols):
        return b""
    bits = max(1, int(symbols.max()).bit_length())
    return bytes([bits]) + np.packbits(np.unpackbits(symbols[:, None], axis=1)[:, 8 - bits :].reshape(-1)).tobytes()


def _unpack(content: bytes, size: int) -> np.ndarray:
    if not size:
        return _as_they_are(content, 0)
    bits = Cursor(content).byte()
    if not 1 <= bits <= 8 or len(content) != 1 + (size * bits + 7) // 8:
        raise ValueError(f"{size:,} numbers of {bits} bits were expected, and there are {len(content) - 1:,} bytes")
    eights = -(-size // 8)  # numbers of which take as many bytes as one has bits
    table = np.frombuffer(content[1:].ljust(eights * bits, b"\0"), np.uint8).reshape(eights, bits)
    words, found = np.zeros(eights, np.uint64), np.empty((eights, 8), np.uint8)
    for column in range(bits):
        words = words << np.uint64(8) | table[:, column]
    for place in range(8):
        found[:, place] = (words >> np.uint64(bits * (7 - place))) & np.uint64((1 << bits) - 1)
    flat = found.reshape(-1)
    rest = 8 * (len(content) - 1) - size * bits
    if flat[size:].any() or (rest and content[-1] & ((1 << rest) - 1)):
        raise ValueError("there are bits set behind the last number")
    return flat[:size]


def _packed_bits(symbols: np.ndarray) -> float:
    return float(len(symbols) * max(1, int(symbols.max(initial=0)).bit_length()))


#: Bytes as they are.
plain = Coder("plain", lambda symbols: symbols.tobytes(), _as_they_are, lambda symbols: 8.0 * len(symbols))
#: Each in as many bits as the largest needs.
packed = Coder("packed", _pack, _unpack, _packed_bits)
#: Canonical Huffman codes, as in Deep Compression.
huffman = Coder("huffman", encode_prefixes, decode_prefixes, entropy)
#: Asymmetric numeral systems: within a hundredth of a percent of the entropy, and quicker to decode.
ranked = Coder("ranked", encode_symbols, decode_symbols, entropy)
#: By the symbols before each, without a table: for short streams. Among others it is not tried on more than 8,192
#: symbols, since it takes its time for each bit of each.
learnt = Coder("learnt", encode_learnt, decode_learnt, entropy)

#: By the number that stands for them in a file.
CODERS = (plain, packed, huffman, ranked, learnt)
_SHORT = 1 << 13


def written(symbols: np.ndarray, coders: Sequence[Coder]) -> tuple[bytes, Coder]:
    """Return the symbols as a stream by whichever coder makes it shortest: its number, its size, its content."""
    several = len(coders) > 1 and len(symbols) > 0
    no_gain = several and int(symbols.max()) > 127  # packed, these are what they were
    too_long = several and len(symbols) > _SHORT and any(coder not in (learnt, packed) for coder in coders)
    idle = [packed] * no_gain + [learnt] * too_long
    found = [(coder.encode(symbols), coder) for coder in coders if coder not in idle]
    content, best = min(found, key=lambda each: len(each[0]))
    return bytes([CODERS.index(best)]) + number(len(content)) + content, best


def read_stream(cursor: Cursor, size: int) -> tuple[np.ndarray, Coder]:
    """Return the `size` symbols of the next stream, and what coded them.

    Raises:
        ValueError: it is none.
    """
    which = cursor.byte()
    if which >= len(CODERS):
        raise ValueError(f"it has a coder {which}, and there are {len(CODERS)}")
    coder = CODERS[which]
    return coder.decode(cursor.take(cursor.number(cursor.left)), size), coder
