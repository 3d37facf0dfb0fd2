"""Products of eight bits against sums of whole numbers: every set of instructions, and torch, compute the same bits."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur._base import door
from secateur.sparse.calls import eight_bits, int8_by_torch, int8_layer, int8_linear
from secateur.sparse.plans import plan_layer

CASES = int(os.environ.get("SECATEUR_FUZZ", "40"))
SIZES = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 300, 513)
INPUTS = (*SIZES, 1041, 3001)
BATCHES = (1, 2, 3, 15, 16, 17, 31, 32, 33, 65, 129, 300)
NATIVE: Any = door.native
SETS = [] if NATIVE is None else NATIVE.int8_sets()
NONE = [pytest.param("", marks=pytest.mark.skip(reason="this processor has neither AVX512-VNNI nor AMX-INT8"))]


@pytest.fixture(params=SETS or NONE)
def chosen(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_num_threads()
    NATIVE.use_int8_set(request.param)
    yield request.param
    NATIVE.use_int8_set("")
    torch.set_num_threads(before)


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype, torch.dtype]:
    """Weights with zeros where pruned, samples whose rows lie apart, a bias, and the types in and out."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(draw.choice([1, 2, 3]))
    outputs, inputs, samples = draw.choice(SIZES), draw.choice(INPUTS), draw.choice(BATCHES)
    mask = torch.rand(outputs, inputs) < draw.choice([0.0, 0.01, 0.1, 0.5, 1.0])
    if draw.random() < 0.3:
        mask[torch.rand(outputs) < 0.5] = False
    kinds = (torch.float32, torch.bfloat16)
    x = (torch.randn(samples, inputs + 3) * 10 ** draw.uniform(-6, 6))[:, 1 : inputs + 1].to(draw.choice(kinds))
    bias = torch.randn(outputs) if draw.random() < 0.5 else None
    return torch.randn(outputs, inputs) * mask, x, bias, x.dtype, draw.choice(kinds)


def test_sums_are_exact_and_torch_computes_the_same(chosen: str) -> None:
    for seed in range(CASES):
        weight, x, bias, _, out = drawn(seed)
        plan = plan_layer(weight != 0, blocks=True)
        whole, scales = eight_bits(weight)
        layer = int8_layer(plan, plan.gather(whole).to(torch.int8), scales)
        assert layer.count == plan.kept
        got = int8_linear(x, layer, bias, out)
        samples, of = eight_bits(x.float())
        want = (samples.double() @ whole.double().t()) * (scales.double() * of.double()[:, None])
        room = want.abs() + (0 if bias is None else bias.double().abs())
        want = want if bias is None else want + bias.double()
        near = 1e-6 if out is torch.float32 else 2**-8 + 1e-6
        assert bool(((got.double() - want).abs() <= near * room + 1e-37).all()), (seed, weight.shape, x.shape)
        theirs = int8_by_torch(x, whole, scales, bias, out)
        assert torch.equal(got, theirs), (seed, weight.shape, x.shape, x.dtype, out)


def test_rounding_to_eight_bits() -> None:
    """Half of a step at most, ties to even, the largest magnitude at 127; 0 for what is too small or not finite."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 300, generator=generator) * torch.logspace(-20, 20, 50)[:, None]
    whole, scales = eight_bits(rows)
    assert torch.equal(whole, whole.round()) and bool((whole.abs().amax(1) == 127).all())
    assert bool(((whole * scales[:, None] - rows).abs() <= 0.5001 * scales[:, None]).all())
    whole, _ = eight_bits(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]]))
    assert whole.tolist() == [[127.0, 0.0, 2.0, 2.0, 0.0, -2.0]]
    whole, scales = eight_bits(torch.tensor([[float("inf"), 1.0], [float("nan"), 1.0], [0.0, 0.0], [1e-37, 0.0]]))
    assert not whole.any() and scales[:2].isnan().all() and scales[2:].tolist() == [0.0, 0.0]


def test_what_is_not_finite_makes_its_sample_nan_and_no_other(chosen: str) -> None:
    weight = torch.ones(70, 100)
    plan, (whole, scales) = plan_layer(weight > 0, blocks=True), eight_bits(weight)
    layer = int8_layer(plan, plan.gather(whole).to(torch.int8), scales)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for samples in (1, 40):
            x = torch.ones(samples, 100)
            x[-1, 99] = bad
            y = int8_linear(x, layer, None, torch.float32)
            assert y[-1].isnan().all() and torch.allclose(y[:-1], torch.tensor(100.0))
            theirs = int8_by_torch(x, whole, scales, None, torch.float32)
            assert torch.equal(y.nan_to_num(), theirs.nan_to_num())


def test_the_largest_sums_fit(chosen: str) -> None:
    """127 · 127 · inputs, with all signs alike; and what would not fit is refused."""
    inputs = 66_311
    plan, scales = plan_layer(torch.ones(2, inputs, dtype=torch.bool), blocks=True), torch.ones(2)
    layer = int8_layer(plan, torch.full((2 * inputs,), 127, dtype=torch.int8), scales)
    x = torch.ones(3, inputs)
    x[1] = -1
    y = int8_linear(x, layer, None, torch.float32)
    want = torch.tensor([1.0, -1.0, 1.0]) * (127 * inputs)
    assert torch.allclose(y, want[:, None].expand(3, 2), rtol=1e-6)
    places, ones = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int8)
    with pytest.raises(ValueError, match="at most 66,311 inputs"):
        NATIVE.Int8Layer(1, inputs + 1, places.numpy(), ones.numpy(), torch.ones(1).numpy())


@pytest.mark.skipif(NATIVE is None, reason="needs the compiled kernels")
def test_lengths_and_places_are_checked() -> None:
    def made(places: list[int], values: int = 1, scales: int = 4) -> Any:
        ones = torch.ones(values, dtype=torch.int8)
        return NATIVE.Int8Layer(4, 8, torch.tensor(places).numpy(), ones.numpy(), torch.ones(scales).numpy())

    for places, values, scales, said in (
        ([-1], 1, 4, "lies outside"),
        ([32], 1, 4, "lies outside"),
        ([3, 3], 2, 4, "comes twice"),
        ([3], 2, 4, "the values must have 1 numbers, got 2"),
        ([3], 1, 5, "a scale is needed for each row"),
    ):
        with pytest.raises(ValueError, match=said):
            made(places, values, scales)
    layer, x, y = made([3]), torch.zeros(2, 8), torch.zeros(2, 4)
    right = (x.data_ptr(), 8, 2, 8, False, 0, 0, y.data_ptr(), 8, False, 1)
    for place, wrong in ((0, 0), (1, -8), (2, 0), (3, 7), (8, 7)):
        with pytest.raises(ValueError, match=r"must have|no memory|at least one"):
            layer.forward(*right[:place], wrong, *right[place + 1 :])
    with pytest.raises(ValueError, match="`bias` must have 4"):
        layer.forward(*right[:5], y.data_ptr(), 3, *right[7:])
    with pytest.raises(ValueError, match="no set for int8 called 'fast'"):
        NATIVE.use_int8_set("fast")


@pytest.mark.skipif(NATIVE is None, reason="needs the compiled kernels")
def test_lesser_instruction_sets_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    best = NATIVE.isa()
    plan = plan_layer(torch.ones(4, 8, dtype=torch.bool))
    layer = int8_layer(plan, torch.ones(32, dtype=torch.int8), torch.ones(4))
    NATIVE.use_isa("portable")
    try:
        assert NATIVE.int8_set() == "" and NATIVE.int8_sets() == []
        assert int8_layer(plan, torch.ones(32, dtype=torch.int8), torch.ones(4)) is None
        if layer is not None:
            with pytest.raises(RuntimeError, match="no instructions for products of bytes"):
                int8_linear(torch.ones(2, 8), layer, None, torch.float32)
    finally:
        NATIVE.use_isa(best)
