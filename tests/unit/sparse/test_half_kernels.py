"""Products in bfloat16 against float64 on rounded numbers: every set of instructions, drawn shapes and batches."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur._base import door
from secateur.sparse.calls import Rounded, half_linear
from secateur.sparse.plans import half_of, plan_layer

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

CASES = int(os.environ.get("SECATEUR_FUZZ", "40"))
SIZES = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 300, 513, 1500, 3000)
BATCHES = (1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 64, 65, 129, 300)
SUMMED = 5e-7  # float32 sums, relative to the sum of the terms' magnitudes
ROUNDED = 2**-8  # a number rounded to bfloat16, relative to itself


def sets() -> list[tuple[str, str]]:
    """Instruction sets, and what multiplies bfloat16 with them."""
    native: Any = door.native
    if native is None:
        return []
    best, found = native.isa(), []
    for isa in native.supported_isas():
        native.use_isa(isa)
        found += [(isa, name) for name in native.half_sets()]
    native.use_isa(best)
    return found


@pytest.fixture(params=sets(), ids=lambda pair: f"{pair[0]}-{pair[1]}")
def chosen(request: pytest.FixtureRequest) -> Iterator[str]:
    native: Any = door.native
    isa, name = request.param
    best = native.isa()
    native.use_isa(isa)
    native.use_half_set(name)
    yield name
    native.use_half_set("")
    native.use_isa(best)


def exact(tensor: Tensor) -> Tensor:
    return tensor.detach().bfloat16().double()


def draw_mask(draw: random.Random, outputs: int, inputs: int) -> Tensor:
    mask = torch.rand(outputs, inputs) < draw.choice([0.0, 0.001, 0.02, 0.1, 0.2, 0.5, 0.9, 1.0])
    kind = draw.randint(0, 5)
    if kind == 0:
        mask[torch.rand(outputs) < 0.5] = False
    elif kind == 1:
        mask[:, torch.rand(inputs) < 0.5] = False
    elif kind == 2:
        mask[: outputs // 2, : inputs // 2] = False
    elif kind == 3:
        mask = mask[: outputs // 4 * 4 : 4].repeat_interleave(4, 0)  # blocks of four, which are stored in another order
        mask = torch.cat([mask, torch.rand(outputs - len(mask), inputs) < 0.3])
    return mask


def far(got: Tensor, want: Tensor, scale: Tensor) -> float:
    """Largest distance, relative to the sum of the magnitudes of all terms."""
    assert got.isfinite().all()
    return float(((got.detach().double() - want).abs() / scale.clamp_min(1e-30)).max()) if got.numel() else 0.0


def test_products_are_those_of_rounded_numbers(chosen: str) -> None:
    before = torch.get_num_threads()
    for seed in range(CASES):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        torch.set_num_threads(draw.choice([1, 2, 3]))
        outputs, inputs, samples = draw.choice(SIZES), draw.choice(SIZES), draw.choice(BATCHES)
        mask, dtype = draw_mask(draw, outputs, inputs), draw.choice([torch.float32, torch.bfloat16])
        plan = plan_layer(mask, blocks=True)
        weight, bias = torch.randn(outputs, inputs) * mask, torch.randn(outputs) if draw.random() < 0.5 else None
        values = plan.gather(weight).requires_grad_()
        x = torch.randn(samples, inputs + 3)[:, 1 : inputs + 1].to(dtype).requires_grad_()  # rows that lie apart
        dy = torch.randn(samples, outputs).bfloat16()
        y = half_linear(x, plan, values, bias, Rounded())
        dx, dvalues = torch.autograd.grad(y, (x, values), dy)
        assert (y.dtype, dx.dtype, dvalues.dtype) == (torch.bfloat16, dtype, torch.float32)

        xs, ws, ds = exact(x), exact(weight), exact(dy)
        plus = 0 if bias is None else bias.double()
        said = (seed, outputs, inputs, samples, dtype)
        room = xs.abs() @ ws.abs().T + (0 if bias is None else bias.double().abs())
        assert far(y, xs @ ws.T + plus, room) <= ROUNDED + SUMMED, said
        assert far(dx, ds @ ws, ds.abs() @ ws.abs()) <= SUMMED + (ROUNDED if dtype is torch.bfloat16 else 0), said
        assert far(dvalues, plan.gather(ds.T @ xs), plan.gather(ds.abs().T @ xs.abs())) <= SUMMED, said
    torch.set_num_threads(before)


def test_infinities_and_nan_arrive(chosen: str) -> None:
    """A pruned weight keeps them out of an output whose block reads nothing of that input."""
    mask = torch.ones(70, 40, dtype=torch.bool)
    mask[32:64] = False
    plan = plan_layer(mask)
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.zeros(20, 40)
        x[5, 7] = bad
        y = half_linear(x, plan, torch.ones(plan.kept), None, Rounded())
        assert not y[5, :32].isfinite().any() and not y[5, 64:].isfinite().any()
        assert y[:5].isfinite().all() and y[6:].isfinite().all() and y[5, 32:64].eq(0).all()


def test_rounding_is_to_the_nearest_and_ties_go_to_even(chosen: str) -> None:
    """What torch rounds to, for every kind of number that is not below bfloat16's normal range."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (4096,), generator=generator, dtype=torch.int32)
    ties = (bits & ~0xFFFF) | 0x8000
    numbers = torch.cat([bits, ties]).view(torch.float32)
    numbers = numbers[numbers.isfinite() & (numbers.abs() > 1e-30) & (numbers.abs() < 1e30)]
    plan = plan_layer(torch.ones(1, numbers.numel(), dtype=torch.bool))
    packed = Rounded().of(plan, numbers)
    assert torch.equal(packed[: plan.kept], numbers.bfloat16())
    one = plan_layer(torch.ones(1, 1, dtype=torch.bool))
    y = half_linear(numbers[:, None], one, torch.ones(1), None, Rounded())
    assert torch.equal(y[:, 0], numbers.bfloat16())


def test_lengths_and_plans_are_checked() -> None:
    native: Any = door.native
    plan = plan_layer(torch.ones(4, 8, dtype=torch.bool))
    layer, packed = half_of(plan).layer, torch.zeros(plan.kept + native.half_padding, dtype=torch.bfloat16)
    x, y, values = torch.zeros(2, 8), torch.zeros(2, 4), torch.zeros(plan.kept)
    at = (packed.data_ptr(), packed.numel())
    right = (*at, x.data_ptr(), 8, 2, 8, False, 0, 0, y.data_ptr(), 8, False, 1)
    layer.forward(*right)
    for place, wrong in ((1, 32), (3, -8), (4, 0), (5, 7), (10, 7)):
        with pytest.raises(ValueError, match=r"must have|no memory|at least one"):
            layer.forward(*right[:place], wrong, *right[place + 1 :])
    with pytest.raises(ValueError, match="`bias` must have 4"):
        layer.forward(*right[:7], y.data_ptr(), 3, *right[9:])
    with pytest.raises(ValueError, match="`values` must have 32 numbers, got 31"):
        layer.round_values(values.data_ptr(), 31, *at, 1)
    with pytest.raises(ValueError, match="the values' gradient must have 32 numbers, got 33"):
        layer.weight_gradient(x.data_ptr(), 8, False, y.data_ptr(), 4, False, 2, values.data_ptr(), 33, 1)
    edges = torch.tensor([0, 8])
    for places, between in (
        ([5, 3], edges),
        ([-1], edges),
        ([32], edges),
        ([3, 3], edges),
        ([0], edges[:1]),
        ([0], edges + 1),
    ):
        with pytest.raises(ValueError, match=r"position|edges"):
            native.HalfLayer(4, 8, torch.tensor(places).numpy(), between.numpy())
    with pytest.raises(ValueError, match=r"must be one of .* got 'fast'"):
        native.use_half_set("fast")


def test_a_bit_for_each_weight_and_few_bytes_besides() -> None:
    plan = plan_layer(torch.rand(1024, 1024) < 0.3)
    dense = 1024 * 1024
    assert half_of(plan).layer.bytes == dense // 8 + dense // 8 + 4 * (32 * 32 + 1)
    assert half_of(plan) is half_of(plan) and half_of(plan).layer.count == plan.kept
