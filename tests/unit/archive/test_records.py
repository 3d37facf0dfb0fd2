"""Records of one tensor: bit for bit where nothing may be lost, whatever the type, the shape and the zeros."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

from secateur._base import door
from secateur.archive import CODERS, SUPPORTS, Support, Values, bitmap, exact, gaps, int8, modelled, rounded, shared
from secateur.archive._record import MOST, parts, read, read_head, write
from secateur.archive._values import DTYPES
from secateur.coding import Coder, huffman

SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (300,), (4, 5), (9, 31), (16, 4, 3, 3), (2, 1, 1, 150)]


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Any bits of the type, NaN, infinities and denormals among them."""
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    content = torch.randint(0, 256, (prod(shape) * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    return content.view(dtype).reshape(shape) if content.numel() else torch.empty(shape, dtype=dtype)


def zeroed(weight: Tensor, mask: Tensor) -> Tensor:
    raw = weight.reshape(-1).view(torch.uint8).reshape(weight.numel(), weight.itemsize).clone()
    raw[~mask.reshape(-1)] = 0
    return raw.reshape(-1).view(weight.dtype).reshape(weight.shape) if weight.numel() else weight


def same_bits(one: Tensor, other: Tensor) -> bool:
    bits = [each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(*bits)


def record(
    weight: Tensor,
    mask: Tensor | None,
    values: Values = exact,
    supports: Sequence[Support] = SUPPORTS,
    coders: Sequence[Coder] = CODERS,
    block: int = 9,
) -> tuple[bytes, float]:
    out: list[bytes] = []
    error = write(out.append, weight, mask, values, supports, coders, masked=mask is not None, block=block)
    return b"".join(out), error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_may_not_change_comes_back_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    weight = random_bits(shape, dtype, generator)
    for density in (None, 0.0, 0.1, 0.9, 1.0) if dtype == torch.float32 else (None, 0.2):
        mask = None if density is None else torch.rand(shape, generator=generator) < density
        given = weight if mask is None else zeroed(weight, mask)
        content, error = record(given, mask)
        found, again = read(content)
        assert same_bits(found, given) and error == 0
        assert (again is None) if mask is None else again is not None and torch.equal(again, mask)
        head = read_head(content)
        assert (head.shape, head.dtype, head.masked) == (shape, dtype, mask is not None)


@pytest.mark.parametrize("support", [modelled, bitmap, *(gaps(bits) for bits in (1, 3, 5, 8))], ids=lambda s: s.name)
@pytest.mark.parametrize("coder", [*CODERS, huffman], ids=lambda coder: coder.name)
def test_each_support_with_each_coder_compiled_or_not(
    support: Support, coder: Coder, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(20, 30, generator=generator) < 0.1
    mask[3:6], mask[7] = False, True  # rows without any, and a full one
    weight = zeroed(torch.randn(20, 30, generator=generator), mask)
    content, _ = record(weight, mask, supports=(support,), coders=(coder,))
    assert read_head(content).support == support.name
    monkeypatch.setattr(door, "native", None)
    assert record(weight, mask, supports=(support,), coders=(coder,))[0] == content
    found, again = read(content)
    assert same_bits(found, weight) and again is not None and torch.equal(again, mask)


@pytest.mark.parametrize("bits", [2, 5])
def test_gaps_as_long_as_the_largest_and_longer_come_back(bits: int) -> None:
    for gap in (2**bits - 2, 2**bits - 1, 2**bits, 5 * 2**bits):
        mask = torch.zeros(3, gap + 1, dtype=torch.bool)
        mask[:, -1] = True
        weight = mask * torch.tensor([[1.5], [-2.0], [3.0]])
        content, _ = record(weight, mask, supports=(gaps(bits),), block=20)
        assert torch.equal(read(content)[0], weight)


def test_the_shortest_is_taken_and_all_of_it_is_chosen_by_size() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(60, 80, generator=generator) < 0.5) & (torch.rand(80, generator=generator) < 0.2)
    weight = zeroed(torch.randn(60, 80, generator=generator), mask)
    sizes = {each.name: len(record(weight, mask, supports=(each,), block=20)[0]) for each in SUPPORTS}
    content, _ = record(weight, mask, block=20)
    assert len(content) == min(sizes.values()) == sizes["modelled"]


def test_few_values_become_a_codebook_without_loss_and_many_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.tensor([0.25, -0.0, 1e-40, float("nan")])[torch.randint(0, 4, (50, 40), generator=generator)]
    content, error = record(few, None)
    assert read_head(content).values == 1 and error == 0 and same_bits(read(content)[0], few)
    many = torch.randn(50, 40, generator=generator)
    assert read_head(record(many, None)[0]).values == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_lossy_values_lose_what_they_say_and_zeros_stay_zeros(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(12, 50, generator=generator) < 0.4
    weight = zeroed(torch.randn(12, 50, generator=generator).to(dtype), mask)
    weight[0, mask[0].nonzero()[0]] = 0  # a survivor that is zero
    for values in (shared(3), int8(), rounded(torch.bfloat16)):
        content, error = record(weight, mask, values)
        found, again = read(content)
        assert again is not None and torch.equal(again, mask) and found.dtype == dtype
        assert (found[~mask] == 0).all() and (found[mask & (weight == 0)] == 0).all()
        lost = float((found.double() - weight.double()).square().sum())
        assert lost == pytest.approx(error, rel=1e-9, abs=1e-300)
    assert len(read(record(weight, mask, shared(3))[0])[0][mask].unique()) <= 8


def test_eight_bits_are_off_by_half_a_step_of_their_row_at_most() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None]
    weight[2] = 0
    found, _ = read(record(weight, None, int8())[0])
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((found - weight).abs() <= 0.5001 * step).all() and (found[2] == 0).all()


def test_indices_of_two_bytes_for_more_than_256_values() -> None:
    weight = torch.randn(40, 100, generator=torch.Generator().manual_seed(0))
    for bits in (8, 9, 11):
        content, error = record(weight, None, shared(bits))
        found, _ = read(content)
        assert 2 ** (bits - 1) < len(found.unique()) <= 2**bits and error < 4000 * 0.05**2


def test_reading_into_memory_leaves_nothing_of_what_was_there() -> None:
    mask = torch.rand(30, 20, generator=torch.Generator().manual_seed(0)) < 0.2
    weight = zeroed(torch.randn(30, 20), mask)
    room = torch.full((30, 20), float("nan"))
    content, _ = record(weight, mask)
    assert read(content, room)[0] is room and torch.equal(room, weight)


def test_a_record_is_never_too_small_for_what_it_holds() -> None:
    zeros = torch.zeros(1000, 1000)
    content, _ = record(zeros, zeros != 0, block=20)
    assert -(-zeros.numel() * 4 // MOST) <= len(content) < 1500
    assert torch.equal(read(content)[0], zeros)


def test_every_block_is_accounted_for() -> None:
    mask = torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) < 0.3
    weight = zeroed(torch.randn(50, 40), mask)
    content, _ = record(weight, mask, shared(4))
    found = list(parts(content))
    assert [part.begin for part in found] == list(range(0, 2000, 512))
    assert np.array_equal(np.concatenate([part.flags for part in found]), mask.reshape(-1).numpy())
    assert sum(len(part.values) for part in found) == int(mask.sum())
    inside = sum(part.support_bytes + part.value_bytes for part in found)
    assert inside < len(content) <= inside + read_head(content).codebook + 24
    assert all(0 <= part.bound() <= 8 * (part.support_bytes + part.value_bytes) for part in found)
