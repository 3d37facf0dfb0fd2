"""Bytes by what came before each: both ways of computing it agree, and it costs what Krichevsky and Trofimov prove."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secateur._base import door
from secateur.coding import Cursor, entropy, learnt, packed, plain, ranked, read_stream, written

RANDOM = np.random.default_rng(0)
CASES = {
    "none": np.zeros(0, np.uint8),
    "one": np.array([255], np.uint8),
    "zeros": np.zeros(40_000, np.uint8),  # counts are halved
    "both": (RANDOM.random(70_000) < 0.3).astype(np.uint8),
    "bytes": RANDOM.integers(0, 256, 3_000).astype(np.uint8),
    "few": np.minimum(RANDOM.geometric(0.2, 5_000), 31).astype(np.uint8),
    "short": np.array([3, 1, 2, 3, 3], np.uint8),
}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_in_comes_out_and_both_ways_of_computing_it_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = CASES[name]
    compiled = learnt.encode(symbols)
    assert np.array_equal(learnt.decode(compiled, len(symbols)), symbols)
    monkeypatch.setattr(door, "native", None)
    assert learnt.encode(symbols) == compiled
    assert np.array_equal(learnt.decode(compiled, len(symbols)), symbols)


@pytest.mark.parametrize("name", ["bytes", "few", "short", "one"])
def test_it_costs_at_most_half_a_logarithm_and_a_bit_at_each_node_that_is_met(name: str) -> None:
    symbols = CASES[name].astype(np.int64)
    bits = max(1, int(symbols.max()).bit_length())
    met = [np.unique(symbols >> level + 1 | 1 << bits - level - 1, return_counts=True)[1] for level in range(bits)]
    room = sum(0.5 * math.log2(n) + 1 for counts in met for n in counts.tolist())
    least = entropy(CASES[name])
    assert least / 8 <= len(learnt.encode(CASES[name])) <= (least + room) / 8 * 1.0002 + 3


def test_short_streams_are_learnt_and_long_ones_are_not_tried() -> None:
    coders = (plain, packed, ranked, learnt)
    content, best = written(CASES["few"][:1000], coders)
    assert best is learnt
    found, coder = read_stream(Cursor(content), 1000)
    assert coder is learnt and np.array_equal(found, CASES["few"][:1000])
    long = np.tile(CASES["few"], 4)
    assert written(long, coders)[1] is ranked and written(long, (learnt,))[1] is learnt


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "python"])
def test_damage_is_an_error_or_other_symbols_but_never_worse(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(door, "native", None)
    content = learnt.encode(CASES["few"])
    for _ in range(100 if native else 5):
        other = bytearray(content)
        other[RANDOM.integers(len(other))] ^= 1 << RANDOM.integers(8)
        try:
            assert learnt.decode(bytes(other[: RANDOM.integers(1, len(other) + 1)]), 5_000).shape == (5_000,)
        except ValueError as problem:
            assert str(problem).isprintable()
    for wrong, size in ((b"\1", 0), (b"\0abc", 3), (b"\x09abc", 3), (b"", 3), (content + bytes(7) + b"\1", 5_000)):
        with pytest.raises(ValueError):
            learnt.decode(wrong, size)
