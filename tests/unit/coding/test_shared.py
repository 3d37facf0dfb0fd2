"""Shared values: few values, only over survivors, as near as k-means brings them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from secateur._base.errors import MaskError, SecateurError
from secateur.coding import Init, density, linear, random, shared_values

GENERATOR = torch.Generator().manual_seed(0)


def inits() -> list[Init]:
    return [linear, density, random(torch.Generator().manual_seed(1))]


def error(weight: Tensor, mask: Tensor, bits: int, init: Init, rounds: int) -> float:
    shared = shared_values(weight, mask, bits, init, rounds=rounds)
    return float((shared.weight(mask).double() - weight.double() * mask).square().sum())


@pytest.mark.parametrize("init", inits(), ids=["linear", "density", "random"])
@pytest.mark.parametrize("bits", [1, 3, 5])
def test_few_values_zeros_stay_zero_and_each_survivor_has_the_nearest(init: Init, bits: int) -> None:
    weight = torch.randn(40, 30, generator=GENERATOR)
    mask = torch.rand(40, 30, generator=GENERATOR) < 0.3
    weight[0, mask[0].nonzero()[0]] = 0.0  # a survivor that is an exact zero
    shared = shared_values(weight, mask, bits, init)
    made = shared.weight(mask)
    assert len(shared.codebook) <= 2**bits and shared.codebook.diff().gt(0).all()
    assert (made[~mask] == 0).all() and (made[mask & (weight == 0)] == 0).all()
    distances = (weight[mask][:, None] - shared.codebook).abs()
    assert torch.equal(distances.gather(1, shared.indices[:, None])[:, 0], distances.min(1).values)
    assert shared.indices.unique().numel() == len(shared.codebook)


@pytest.mark.parametrize("init", inits(), ids=["linear", "density", "random"])
def test_the_squared_error_never_rises_and_each_value_is_the_mean_of_its_own(init: Init) -> None:
    weight, mask = torch.randn(2000, dtype=torch.float64, generator=GENERATOR), torch.ones(2000, dtype=torch.bool)

    def fresh() -> Init:
        return init if init in (linear, density) else random(torch.Generator().manual_seed(7))

    errors = [error(weight, mask, 4, fresh(), rounds) for rounds in (1, 2, 4, 8, 300)]
    assert all(later <= sooner * (1 + 1e-12) for sooner, later in pairwise(errors)), errors
    shared = shared_values(weight, mask, 4, fresh())
    means = torch.stack([weight[shared.indices == k].mean() for k in range(len(shared.codebook))])
    torch.testing.assert_close(means, shared.codebook)


def test_many_values_are_added_up_as_few_are() -> None:
    weight = torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) ** 3
    values = weight.sort().values
    centres = linear(values, 4)
    for _ in range(300):  # Lloyd's rounds, written down plainly
        nearest = (values[:, None] - centres).abs().argmin(1)
        centres = torch.stack([values[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(4)])
    torch.testing.assert_close(shared_values(weight, None, 2).codebook, centres)


def test_on_a_uniform_distribution_the_error_is_that_of_equal_steps() -> None:
    weight = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    mask = torch.ones_like(weight, dtype=torch.bool)
    for bits in (2, 4):
        step = 2 / 2**bits  # of a uniform quantiser: step² / 12
        assert math.isclose(error(weight, mask, bits, density, 300) / len(weight), step**2 / 12, rel_tol=1e-3)


def test_what_has_few_values_keeps_them() -> None:
    weight = torch.tensor([[0.5, -1.0, 0.5], [0.0, 3.0, -1.0]])
    shared = shared_values(weight, weight != 0, 2)
    assert shared.codebook.tolist() == [-1.0, 0.5, 3.0]
    assert torch.equal(shared.weight(weight != 0), weight)
    one = shared_values(torch.full((7,), 2.5), None, 1)
    assert one.codebook.tolist() == [2.5] and one.indices.tolist() == [0] * 7


def test_nothing_alive_has_no_values() -> None:
    mask = torch.zeros(3, 2, dtype=torch.bool)
    shared = shared_values(torch.ones(3, 2), mask, 5)
    assert len(shared.codebook) == 0 and len(shared.indices) == 0
    assert torch.equal(shared.weight(mask), torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_have_the_dtype_of_the_weight(dtype: torch.dtype) -> None:
    weight = torch.randn(300, generator=GENERATOR).to(dtype)
    shared = shared_values(weight, None, 3)
    assert shared.codebook.dtype == dtype and len(shared.codebook) == 8
    assert shared.weight(torch.ones(300, dtype=torch.bool)).dtype == dtype


def test_the_gradient_of_a_value_is_the_sum_over_its_weights() -> None:
    weight, mask = torch.randn(12, 9, generator=GENERATOR), torch.rand(12, 9, generator=GENERATOR) < 0.5
    shared = shared_values(weight, mask, 2)
    codebook = shared.codebook.clone().requires_grad_()
    full = torch.zeros(12, 9)
    full[mask] = codebook[shared.indices]
    factors = torch.randn(12, 9, generator=GENERATOR)
    (full.square() * factors).sum().backward()
    assert codebook.grad is not None
    torch.testing.assert_close(shared.summed(2 * full.detach() * factors, mask), codebook.grad)


@pytest.mark.parametrize("bits", [0, 17, -1, True])
def test_bits_that_no_index_has_are_refused(bits: int) -> None:
    with pytest.raises(SecateurError, match="`bits` must be a whole number from 1 to 16"):
        shared_values(torch.ones(3), None, bits)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(SecateurError, match="finite"):
        shared_values(torch.tensor([1.0, math.nan]), None, 2)
    with pytest.raises(SecateurError, match="finite"):
        shared_values(torch.tensor([1.0, -math.inf]), None, 2)
    with pytest.raises(SecateurError, match="floating-point"):
        shared_values(torch.arange(3), None, 2)
    with pytest.raises(MaskError, match="shape"):
        shared_values(torch.ones(3), torch.ones(2, dtype=torch.bool), 2)
    with pytest.raises(SecateurError, match="`init` must return 4 values"):
        shared_values(torch.randn(30), None, 2, lambda values, count: values[:1])
