"""Blocks of 64 outputs × 2 inputs in bfloat16: against float64 on rounded numbers, and against the bitmask kernels."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, densify, methods, prune, sparsify
from secateur._base import door
from secateur.axes.structure import blocks, mean
from secateur.sparse import SparseLinear, report_of
from secateur.sparse.calls import Rounded, half_linear
from secateur.sparse.plans import PAIRED, LayerPlan, half_of, paired_of, plan_layer
from timed_cases import DENSE, Clock

CASES = int(os.environ.get("SECATEUR_FUZZ", "40"))
SIZES = (4, 5, 7, 31, 32, 33, 63, 64, 65, 66, 67, 68, 100, 129, 300, 513)
INPUTS = (1, 2, 3, 16, 31, 32, 33, 64, 65, 300, 1500, 3001)
BATCHES = (1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 65, 129, 300)
SUMMED = 5e-7  # float32 sums, relative to the sum of the terms' magnitudes
ROUNDED = 2**-8  # a number rounded to bfloat16, relative to itself


def sets_with_pairs() -> list[str]:
    native: Any = door.native
    found = []
    for name in [] if native is None else native.half_sets():
        native.use_half_set(name)
        found += [name] if native.half_has_pairs() else []
        native.use_half_set("")
    return found


NONE = [pytest.param("", marks=pytest.mark.skip(reason="this processor has neither AMX nor AVX512-BF16"))]


@pytest.fixture(params=sets_with_pairs() or NONE)
def chosen(request: pytest.FixtureRequest) -> Iterator[str]:
    native: Any = door.native
    native.use_half_set(request.param)
    yield request.param
    native.use_half_set("")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def block_mask(outputs: int, inputs: int, density: float) -> Tensor:
    """Random whole blocks, at least one; those at the edges are smaller."""
    tall, wide = PAIRED
    kept = torch.rand(-(-outputs // tall), -(-inputs // wide)) < density
    kept[0, 0] = True
    return kept.repeat_interleave(tall, 0).repeat_interleave(wide, 1)[:outputs, :inputs].contiguous()


def exact(tensor: Tensor) -> Tensor:
    return tensor.detach().bfloat16().double()


def far(got: Tensor, want: Tensor, scale: Tensor) -> float:
    """Largest distance, relative to the sum of the magnitudes of all terms."""
    assert got.isfinite().all()
    return float(((got.detach().double() - want).abs() / scale.clamp_min(1e-30)).max())


def test_products_are_those_of_rounded_numbers(chosen: str) -> None:
    for seed in range(CASES):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        torch.set_num_threads(draw.choice([1, 2, 3]))
        outputs, inputs, samples = draw.choice(SIZES), draw.choice(INPUTS), draw.choice(BATCHES)
        mask, dtype = (
            block_mask(outputs, inputs, draw.choice([0.01, 0.1, 0.5, 1.0])),
            draw.choice([torch.float32, torch.bfloat16]),
        )
        plan = plan_layer(mask, blocks=True)
        assert paired_of(plan) is not None and half_of(plan) is paired_of(plan)
        weight, bias = torch.randn(outputs, inputs) * mask, torch.randn(outputs) if draw.random() < 0.5 else None
        values = plan.gather(weight).requires_grad_()
        x = torch.randn(samples, inputs + 3)[:, 1 : inputs + 1].to(dtype).requires_grad_()  # rows that lie apart
        dy = torch.randn(samples, outputs).bfloat16()
        y = half_linear(x, plan, values, bias, Rounded())
        dx, dvalues = torch.autograd.grad(y, (x, values), dy)
        assert (y.dtype, dx.dtype, dvalues.dtype) == (torch.bfloat16, dtype, torch.float32)

        xs, ws, ds = exact(x), exact(weight), exact(dy)
        said = (seed, outputs, inputs, samples, dtype)
        room = xs.abs() @ ws.abs().T + (0 if bias is None else bias.double().abs())
        assert far(y, xs @ ws.T + (0 if bias is None else bias.double()), room) <= ROUNDED + SUMMED, said
        assert far(dx, ds @ ws, ds.abs() @ ws.abs()) <= SUMMED + (ROUNDED if dtype is torch.bfloat16 else 0), said
        assert far(dvalues, plan.gather(ds.T @ xs), plan.gather(ds.abs().T @ xs.abs())) <= SUMMED, said


def test_rounding_puts_every_weight_in_its_place(chosen: str) -> None:
    """One sample that asks for one input at a time reads the weights back, to the bit."""
    torch.manual_seed(0)
    mask = block_mask(130, 45, 0.4)
    plan = plan_layer(mask, blocks=True)
    weight = (torch.randn(130, 45) * mask).bfloat16()
    y = half_linear(torch.eye(45), plan, plan.gather(weight.float()), None, Rounded())
    assert torch.equal(y.T, weight)
    for column in (0, 7, 44):
        y = half_linear(torch.eye(45)[column : column + 1], plan, plan.gather(weight.float()), None, Rounded())
        assert torch.equal(y[0], weight[:, column])


def test_what_is_not_finite_reaches_the_units_that_read_it_alone(chosen: str) -> None:
    mask = torch.zeros(192, 40, dtype=torch.bool)
    mask[:64, 4:8], mask[128:, 6:8] = True, True
    plan = plan_layer(mask, blocks=True)
    assert paired_of(plan) is not None
    for samples in (1, 20):
        for column, readers in ((0, ()), (5, (0,)), (7, (0, 2)), (39, ())):
            x = torch.zeros(samples, 40)
            x[-1, column] = float("nan")
            y = half_linear(x, plan, torch.ones(plan.kept), None, Rounded())
            for group in range(3):
                assert bool(y[-1, 64 * group : 64 * group + 64].isnan().all()) is (group in readers)
            assert not y[:-1].any()


@pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
@pytest.mark.parametrize("missing", [(0, 0), (63, 5), (64, 0), (99, 6)])
def test_other_masks_are_none_of_these(missing: tuple[int, int]) -> None:
    mask = torch.ones(100, 7, dtype=torch.bool)
    assert paired_of(plan_layer(mask, blocks=True)) is not None
    mask[missing] = False
    assert paired_of(plan_layer(mask, blocks=True)) is None
    fours = torch.zeros(128, 8, dtype=torch.bool)
    fours[:4, :2] = True
    assert paired_of(plan_layer(fours, blocks=True)) is None
    fours[:64, :2] = True
    assert paired_of(plan_layer(fours, blocks=True)) is not None
    fours[64:, 3:5] = True  # two neighbours that are no pair
    assert paired_of(plan_layer(fours, blocks=True)) is None
    empty = plan_layer(torch.zeros(64, 4, dtype=torch.bool), blocks=True)
    assert paired_of(empty) is None
    singly = torch.ones(64, 4, dtype=torch.bool)
    assert paired_of(plan_layer(singly)) is not None, "stored row by row, they are blocks all the same"
    singly[3, 2] = False
    assert paired_of(plan_layer(singly)) is None


@pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
def test_positions_and_lengths_are_checked() -> None:
    native: Any = door.native
    plan = plan_layer(torch.ones(64, 2, dtype=torch.bool), blocks=True)
    places, edges = plan.positions, plan.edges
    for wrong in (places[:-1], places.flip(0), torch.cat([places, places[-1:]])):
        assert native.paired_layer(64, 2, wrong.numpy(), edges.numpy()) is None
    for place in (-1, 128):
        with pytest.raises(ValueError, match="position lies outside"):
            native.paired_layer(64, 2, torch.tensor([place]).numpy(), edges.numpy())
    for between in (edges[:1], edges + 1, torch.tensor([0, 2, 2])):
        with pytest.raises(ValueError, match="edges"):
            native.paired_layer(64, 2, places.numpy(), between.numpy())
    layer, packed = native.paired_layer(64, 2, places.numpy(), edges.numpy()), torch.zeros(2048, dtype=torch.bfloat16)
    assert (layer.count, layer.packed) == (128, 2048) and layer.bytes < 1000
    with pytest.raises(ValueError, match="the rounded values must have 2048 numbers, got 128"):
        layer.round_values(plan.gather(torch.ones(64, 2)).data_ptr(), 128, packed.data_ptr(), 128, 1)


def test_a_set_without_these_kernels_computes_the_same(chosen: str) -> None:
    """The plan and its rounded weights follow the set in use."""
    native: Any = door.native
    torch.manual_seed(0)
    plan, rounded = plan_layer(block_mask(128, 64, 0.3), blocks=True), Rounded()
    values, x = torch.randn(plan.kept), torch.randn(40, 64)
    ours = half_linear(x, plan, values, None, rounded)
    native.use_half_set(native.half_sets()[0])
    assert not native.half_has_pairs() and half_of(plan) is not paired_of(plan)
    theirs = half_linear(x, plan, values, None, rounded)
    native.use_half_set(chosen)
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=1e-6)
    assert torch.equal(half_linear(x, plan, values, None, rounded), ours)
    paired = paired_of(plan)
    assert paired is not None
    native.use_half_set(native.half_sets()[0])
    packed = torch.zeros(paired.layer.packed, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="no kernels for blocks of 64 × 2"):
        paired.layer.round_values(values.data_ptr(), plan.kept, packed.data_ptr(), packed.numel(), 1)


def pruned() -> tuple[nn.Module, Masks]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 70))
    return model, prune(model, methods.magnitude(density=0.3, structure=blocks(*PAIRED, reduce=mean)))


def test_a_pruned_model_takes_these_kernels(chosen: str, clock: Clock) -> None:
    """What the structure prunes, `sparsify` finds; the report says so, and training is that of the dense model."""
    model, masks = pruned()
    x = torch.randn(9, 96)
    clock.models, clock.first_calls = [DENSE] * 9, [DENSE] * 40
    with torch.autocast("cpu", torch.bfloat16):
        fast: Any = sparsify(model, masks, example_inputs=x)
    assert [type(layer) for layer in fast] == [SparseLinear, nn.ReLU, SparseLinear]
    assert all(paired_of(layer.plan) is not None for layer in (fast[0], fast[2]))
    assert "in blocks of 64 × 2" in str(report_of(fast))
    assert all(asked.endswith("in blocks of 64 × 2") for asked in clock.asked if "density" in asked)


def test_training_follows_the_dense_model(chosen: str) -> None:
    model, masks = pruned()
    sparse = nn.Sequential(
        *[
            SparseLinear.from_dense(m, masks[f"{n}.weight"]) if isinstance(m, nn.Linear) else m
            for n, m in model.named_children()
        ]
    )
    dense = densify(sparse)
    x, target = torch.randn(32, 96), torch.randn(32, 70)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (sparse, dense)]
    for _ in range(5):
        for each, optimizer in zip((sparse, dense), optimizers, strict=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (each(x).float() - target).square().mean()
            loss.backward()
            if each is dense:
                for name, p in dense.named_parameters():
                    assert p.grad is not None
                    p.grad.mul_(masks[name]) if name in masks else None
            optimizer.step()
    for mine, other in zip(densify(sparse).parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.02, atol=2e-3)


def test_plans_are_shared_and_made_anew(chosen: str) -> None:
    plan = plan_layer(block_mask(64, 20, 0.5), blocks=True)
    again = LayerPlan(plan.rows, plan.columns, plan.positions, plan.edges, plan.blocks)
    assert paired_of(plan) is paired_of(plan) and paired_of(again) is not None
