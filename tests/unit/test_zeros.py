"""Zeros written by the kernel are torch's, bit for bit, and autograd notices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur._base import door
from secateur._base.zeros import all_true, count_true, zero_


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5, 2), (300, 701)], ids=str)
def test_equal_to_masked_fill(
    shape: tuple[int, ...], dtype: torch.dtype, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(door, "native", None)
    elif door.native is None:
        pytest.skip(f"no compiled kernels: {door.why_not}")
    tensor = (torch.randn(shape) * 100).to(dtype)
    where = torch.rand(shape) < 0.7
    other = tensor.clone()
    expected, rest = tensor.masked_fill(where, 0), tensor.masked_fill(~where, 0)
    zero_(tensor, where)
    zero_(other, where, when=False)
    assert torch.equal(tensor, expected) and torch.equal(other, rest)


def test_nan_and_infinity_are_overwritten_and_survivors_keep_their_bits() -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, float("nan")])
    zero_(tensor, torch.tensor([True, True, False, False]))
    assert tensor[:2].tolist() == [0, 0]
    assert torch.signbit(tensor[2]) and torch.isnan(tensor[3])


def test_strided_tensors_are_written_where_they_lie() -> None:
    base = torch.ones(6, 4)
    zero_(base.T[1:3], torch.tensor([[True] * 6, [False] * 6]))
    assert base.sum(0).tolist() == [6, 0, 6, 6]


def test_autograd_notices_a_write_between_forward_and_backward() -> None:
    weight = nn.Parameter(torch.randn(3))
    loss = (weight**2).sum()
    with torch.no_grad():
        zero_(weight, torch.tensor([True, False, False]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 255 * 64, 256 * 64 + 1, 70_001, 200_000])
def test_flags_are_counted(size: int, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(door, "native", None)
    for flags in (torch.rand(size) < 0.3, torch.ones(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)):
        assert count_true(flags) == sum(flags.tolist())
    assert all_true(flags) == (size == 0)


def test_flags_are_counted_however_they_lie() -> None:
    flags = torch.tensor([[True, False, True], [False, False, True]])
    assert count_true(flags.T) == 3 and count_true(flags[:, ::2]) == 3 and count_true(flags[:1].expand(5, 3)) == 10
