"""Places of occupied entries: as gaps, and by an adaptive model; compiled or not, the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from secateur._base import door
from secateur.coding import Places, decode_gaps, encode_gaps

RANDOM = np.random.default_rng(0)


def drawn(shape: tuple[int, ...], density: float) -> np.ndarray:
    return (RANDOM.random(shape) < density).astype(np.uint8)


def columns(rows: int, width: int) -> np.ndarray:
    """A matrix of which few columns are occupied, as SNIP leaves them at the pixels."""
    return (RANDOM.random((rows, width)) < 0.4 * (RANDOM.random(width) < 0.2)).astype(np.uint8)


CASES = {
    "0-d": np.ones((), np.uint8),
    "none": np.zeros((0, 5), np.uint8),
    "no columns": np.zeros((5, 0), np.uint8),
    "one row": drawn((1, 3000), 0.1),
    "vector": drawn((2500,), 0.5),
    "zeros": np.zeros((40, 50), np.uint8),
    "ones": np.ones((40, 50), np.uint8),
    "half": drawn((64, 40), 0.5),
    "rare": drawn((90, 100), 0.002),
    "columns": columns(80, 60),
    "convolution": drawn((16, 8, 3, 3), 0.2),
    "seven rows": drawn((7, 300), 0.3),
    "eight rows": drawn((8, 300), 0.3),
}  # fmt: skip


def parts(flat: np.ndarray, size: int) -> list[np.ndarray]:
    return [flat[begin : begin + size] for begin in range(0, len(flat), size)] or [flat]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [37, 1 << 20])
def test_places_come_back_in_parts_of_any_size_and_both_ways_agree(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = CASES[name]
    flat = np.ascontiguousarray(flags.reshape(-1))
    begin = max(1, min(65535, int(65536 * flat.mean()))) if flat.size else 1
    model = Places(flags.shape, begin)
    written = [model.encode(part) for part in parts(flat, size)]
    for native in (True, False):
        if not native:
            monkeypatch.setattr(door, "native", None)
            again = Places(flags.shape, begin)
            other = [again.encode(part) for part in parts(flat, size)]
            assert [content for content, _ in other] == [content for content, _ in written]
            assert np.allclose([bits for _, bits in other], [bits for _, bits in written], rtol=1e-4, atol=1e-3)
        reader, found = Places(flags.shape, begin), np.full(flat.shape, 9, np.uint8)
        for (content, _), part in zip(written, parts(found, size), strict=True):
            reader.decode(content, part)
        assert np.array_equal(found, flat)


def test_the_coder_costs_what_its_model_says_and_no_more() -> None:
    flat = drawn((300, 784), 0.05).reshape(-1)
    content, bits = Places((300, 784), 3276).encode(flat)
    assert bits <= 8 * len(content) <= bits + 16
    density = flat.mean()
    plain = -flat.size * (density * np.log2(density) + (1 - density) * np.log2(1 - density))
    assert bits < plain * 1.02  # nothing to learn here, and learning costs next to nothing


def test_columns_that_are_empty_cost_next_to_nothing() -> None:
    flags = columns(300, 784)
    density = flags.mean()
    plain = -flags.size * (density * np.log2(density) + (1 - density) * np.log2(1 - density))
    _, bits = Places(flags.shape, max(1, int(65536 * density))).encode(flags.reshape(-1))
    ideal = sum(
        -300 * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) for p in flags.mean(0) if 0 < p < 1
    )  # each column by its own frequency, told for nothing
    assert bits < 0.75 * plain and bits < 1.1 * ideal


def test_probabilities_never_reach_an_end() -> None:
    """A long run of one kind, then the other: the coder must still be able to say so."""
    flat = np.zeros(60_000, np.uint8)
    flat[-1] = 1
    for flags in (flat, 1 - flat):
        content, _ = Places((300, 200), 1).encode(flags)
        found = np.empty_like(flags)
        Places((300, 200), 1).decode(content, found)
        assert np.array_equal(found, flags) and len(content) < 60


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "python"])
def test_any_bytes_are_some_places_and_bytes_left_over_are_refused(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(door, "native", None)
    for size in (0, 1, 7, 8, 9, 300):
        content, found = RANDOM.bytes(size), np.empty(4000, np.uint8)
        try:
            Places((40, 100), 6000).decode(content, found)
        except ValueError as problem:
            assert "left over" in str(problem)
        assert found.max() <= 1
    content, _ = Places((40, 100), 6000).encode(np.zeros(4000, np.uint8))
    with pytest.raises(ValueError, match="left over"):
        Places((40, 100), 6000).decode(content + bytes(50), np.empty(4000, np.uint8))


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
def test_gaps_of_every_length_come_back(bits: int) -> None:
    most = (1 << bits) - 1
    for gap in (0, 1, most - 1, most, most + 1, 2 * most - 1, 2 * most, 2 * most + 1, 5 * most):
        flags = np.zeros(3 * gap + 40, np.uint8)
        flags[[gap, 2 * gap + 1, 2 * gap + 2]] = 1
        gaps = encode_gaps(flags, bits)
        assert len(gaps) == 3 + 2 * (gap // most) and gaps.max() <= most
        assert np.array_equal(decode_gaps(gaps, bits, len(flags)), flags)
    for flags in (np.zeros(50, np.uint8), np.ones(50, np.uint8), np.zeros(0, np.uint8), drawn((3000,), 0.02)):
        assert np.array_equal(decode_gaps(encode_gaps(flags, bits), bits, len(flags)), flags)


def test_gaps_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="past the end"):
        decode_gaps(np.array([4], np.uint8), 4, 4)
    with pytest.raises(ValueError, match="4 bits"):
        decode_gaps(np.array([3, 16], np.uint8), 4, 100)
    with pytest.raises(ValueError, match="4 bits"):
        decode_gaps(np.array([3, 15], np.uint8), 4, 100)
