"""Coders of bytes: what goes in comes out, in no more bytes than theory says, compiled or not."""

from __future__ import annotations

import numpy as np
import pytest

from secateur._base import door
from secateur.coding import Coder, Cursor, entropy, huffman, packed, plain, ranked, read_stream, written
from secateur.coding._prefixes import code_lengths

CODERS = [plain, packed, huffman, ranked]
RANDOM = np.random.default_rng(0)


def skewed(size: int, alphabet: int, power: float) -> np.ndarray:
    weights = 1.0 / np.arange(1, alphabet + 1) ** power
    return RANDOM.choice(alphabet, size, p=weights / weights.sum()).astype(np.uint8)


CASES = {
    "none": np.zeros(0, np.uint8),
    "one": np.array([7], np.uint8),
    "one symbol": np.full(1000, 255, np.uint8),
    "zeros": np.zeros(5000, np.uint8),
    "two symbols": np.array([0, 255] * 30, np.uint8),
    "all bytes": np.arange(256, dtype=np.uint8),
    "uniform": RANDOM.integers(0, 256, 9001).astype(np.uint8),
    "skewed": skewed(9999, 32, 2.0),
    "one lane": skewed(4095, 200, 1.5),
    "four lanes": skewed(4096, 200, 1.5),
    "rare": np.array([1] * 40_000 + [2], np.uint8),
    "Fibonacci": np.repeat(np.arange(18), [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584])
    .astype(np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("coder", CODERS, ids=lambda coder: coder.name)
def test_what_goes_in_comes_out_and_both_ways_of_computing_it_agree(
    coder: Coder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = CASES[name]
    content = coder.encode(symbols)
    assert np.array_equal(coder.decode(content, len(symbols)), symbols)
    monkeypatch.setattr(door, "native", None)
    assert coder.encode(symbols) == content
    assert np.array_equal(coder.decode(content, len(symbols)), symbols)


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name]) > 2000])
def test_frequencies_cost_no_more_than_the_entropy_and_a_little(name: str) -> None:
    symbols = CASES[name]
    table = 3 * len(np.unique(symbols)) + 3 + 16  # at most: two bytes and a run for each, and the states
    assert len(ranked.encode(symbols)) <= entropy(symbols) / 8 * 1.005 + table


@pytest.mark.parametrize("name", [name for name in CASES if len(np.unique(CASES[name])) > 1])
def test_no_coder_goes_below_its_own_bound(name: str) -> None:
    symbols = CASES[name]
    for coder in CODERS:
        assert 8 * len(coder.encode(symbols)) >= coder.bound(symbols) - 1e-6
    assert plain.bound(symbols) >= packed.bound(symbols) >= ranked.bound(symbols) - 1e-6


@pytest.mark.parametrize("name", [name for name in CASES if len(np.unique(CASES[name])) > 1])
def test_huffman_codes_lie_within_a_bit_of_the_entropy_and_fill_the_tree(name: str) -> None:
    symbols = CASES[name]
    counts = np.bincount(symbols, minlength=256)
    lengths = code_lengths(counts)
    mean = (counts * lengths).sum() / len(symbols)
    assert entropy(symbols) / len(symbols) - 1e-9 <= mean < entropy(symbols) / len(symbols) + 1
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1  # Kraft's equality
    assert (
        len(huffman.encode(symbols))
        == 1 + (5 * (int(symbols.max()) + 1) + 7) // 8 + (int((counts * lengths).sum()) + 7) // 8
    )


def test_a_huffman_code_is_as_short_as_the_best_of_all_prefix_codes() -> None:
    counts = np.array([5, 1, 7, 2, 3])
    best = min(
        sum(int(count) * length for count, length in zip(counts, lengths, strict=True))
        for lengths in np.ndindex(*(5,) * 5)
        if all(lengths) and sum(2.0**-length for length in lengths) <= 1
    )
    assert int((counts * code_lengths(counts)).sum()) == best


def test_the_shortest_is_chosen_and_says_which_it_is() -> None:
    symbols = CASES["skewed"]
    content, best = written(symbols, CODERS)
    assert best is ranked and len(content) < min(len(coder.encode(symbols)) for coder in (plain, packed, huffman))
    cursor = Cursor(content + b"rest")
    found, coder = read_stream(cursor, len(symbols))
    assert np.array_equal(found, symbols) and coder is ranked and cursor.left == 4
    assert written(CASES["uniform"], CODERS)[1] in (plain, packed)


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "python"])
@pytest.mark.parametrize("coder", CODERS, ids=lambda coder: coder.name)
def test_damage_is_an_error_or_other_symbols_but_never_worse(
    coder: Coder, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(door, "native", None)
    symbols = skewed(5000, 40, 1.2)
    content = coder.encode(symbols)
    refused = 0
    for _ in range(200 if native else 30):
        other = bytearray(content)
        other[RANDOM.integers(len(other))] ^= 1 << RANDOM.integers(8)
        cut = bytes(other[: RANDOM.integers(len(other) + 1)] if RANDOM.random() < 0.3 else other)
        try:
            found = coder.decode(cut, 5000)
            assert found.shape == (5000,) and found.dtype == np.uint8
        except ValueError as problem:
            refused += 1
            assert str(problem).isprintable()
    assert refused > 5


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "python"])
def test_what_an_encoder_never_writes_is_refused(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(door, "native", None)
    symbols = CASES["skewed"]
    for coder in CODERS:
        with pytest.raises(ValueError):
            coder.decode(coder.encode(symbols) + b"\0\0", len(symbols))
        with pytest.raises(ValueError):
            coder.decode(coder.encode(symbols)[:-2], len(symbols))
        with pytest.raises(ValueError):
            coder.decode(b"\1", 0)
    with pytest.raises(ValueError, match="scale"):
        ranked.decode(b"\x0f" + bytes(40), 10)
    with pytest.raises(ValueError, match="make no code"):
        huffman.decode(b"\x01\x08\x80" + bytes(4), 10)
    with pytest.raises(ValueError, match="coder 9"):
        read_stream(Cursor(b"\x09\x00"), 0)
    with pytest.raises(ValueError, match="too early"):
        Cursor(b"\x80").number(1000)
    with pytest.raises(ValueError, match="larger than 127"):
        Cursor(b"\xff\x01").number(127)
