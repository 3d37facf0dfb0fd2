"""Blocks of 64 × 2 in bfloat16 go through the kernels that are faster here: by mode, told, and the same numbers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, densify, sparsify
from secateur._base import door
from secateur.sparse import SparseLinear, report_of
from secateur.sparse.calls import Rounded, half_linear
from secateur.sparse.calls import _half_chosen as blocks_timed
from secateur.sparse.convert._inputs import Use
from secateur.sparse.convert._timed import runner
from secateur.sparse.convert._whole import whole_verdict
from secateur.sparse.layers import _choosing as choosing
from secateur.sparse.plans import LayerPlan, half_of, paired_of, plan_layer
from secateur.sparse.timing import Verdict, verdicts_here
from timed_cases import DENSE, OPEN, SPARSE, Clock

native: Any = door.native
pytestmark = pytest.mark.skipif(
    native is None or not native.half_has_pairs(), reason="this processor has neither AMX nor AVX512-BF16"
)
INPUTS, OUTPUTS, SAMPLES = 96, 150, 9


def block_mask() -> Tensor:
    kept = torch.rand(3, INPUTS // 2, generator=torch.Generator().manual_seed(1)) < 0.4
    return kept.repeat_interleave(64, 0).repeat_interleave(2, 1)[:OUTPUTS].contiguous()


def layer_and_masks(training: bool) -> tuple[nn.Linear, Masks]:
    torch.manual_seed(0)
    return nn.Linear(INPUTS, OUTPUTS).train(training), Masks({"weight": block_mask()})


def converted(clock: Clock, verdict: Verdict, *, training: bool) -> tuple[Any, nn.Linear]:
    """A layer for which the clock says this of its kernels, those for blocks being the first; and the dense one."""
    model, masks = layer_and_masks(training)
    clock.kernels = lambda kind: verdict
    clock.models, clock.first_calls = [DENSE] * 9, [DENSE] * 40
    with torch.autocast("cpu", torch.bfloat16):
        fast = sparsify(model, masks, example_inputs=torch.randn(SAMPLES, INPUTS))
    assert type(fast) is SparseLinear
    masks.apply_(model)
    return fast, model


def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the kernels for blocks are taken, call by call."""
    found: list[bool] = []
    plain = Rounded.of

    def of(self: Rounded, plan: LayerPlan, values: Tensor, blocks: bool | None = None) -> Tensor:
        found.append(half_of(plan, blocks=blocks) is paired_of(plan))
        return plain(self, plan, values, blocks)

    monkeypatch.setattr(Rounded, "of", of)
    return found


@pytest.mark.parametrize(("verdict", "taken"), [(DENSE, True), (OPEN, True), (SPARSE, False)])
def test_inference_takes_the_faster_and_says_so(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, taken: bool
) -> None:
    fast, model = converted(clock, verdict, training=False)
    reason = report_of(fast).layers[0].reason
    assert ("in blocks of 64 × 2 (" in reason) is taken and ("blocks as single weights (" in reason) is not taken
    assert all("inference at 9 × 96" in kind and native.half_set() in kind for kind in clock.asked_kernels)
    assert clock.asked[0].endswith("in blocks of 64 × 2" if taken else "blocks as single weights")
    assert fast.plan.blocks and not fast.singly, "a mode without gradients moves no values"
    calls, x = used(monkeypatch), torch.randn(SAMPLES, INPUTS)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=2**-6, atol=0.02)
    assert set(calls) == {taken}


@pytest.mark.parametrize(("verdict", "taken"), [(DENSE, True), (OPEN, True), (SPARSE, False)])
def test_training_stores_what_trains_faster_and_says_so(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, taken: bool
) -> None:
    fast, model = converted(clock, verdict, training=True)
    reason = report_of(fast).layers[0].reason
    assert ("in blocks of 64 × 2 (" in reason) is taken and ("blocks as single weights (" in reason) is not taken
    assert all("training, first layer at 9 × 96" in kind for kind in clock.asked_kernels)
    assert fast.plan.blocks is taken and fast.singly is not taken
    assert torch.equal(densify(fast).get_parameter("weight"), model.weight), "the same weights in either order"
    calls, x = used(monkeypatch), torch.randn(SAMPLES, INPUTS)
    with torch.autocast("cpu", torch.bfloat16):
        for each in (fast, model):
            each(x).float().square().sum().backward()
    assert set(calls) == {taken}
    want = fast.plan.gather(model.weight.grad)
    torch.testing.assert_close(fast.values.grad, want, rtol=0.02, atol=0.02 * float(want.abs().max()))


def test_each_mode_decides_for_itself(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored singly for training, it still takes the kernels for blocks without gradients, where those are faster."""
    fast, model = converted(clock, SPARSE, training=True)
    clock.kernels, calls = lambda kind: DENSE, used(monkeypatch)
    clock.asked_kernels.clear()
    x = torch.randn(SAMPLES, INPUTS)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fast(x), model(x), rtol=2**-6, atol=0.02)
        assert len(clock.asked_kernels) == 1 and "inference, stored singly at" in clock.asked_kernels[0]
        fast(torch.randn(4 * SAMPLES, INPUTS))
    assert len(clock.asked_kernels) == 2, "another size"
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        fast(x)
        assert calls == [False]
        with torch.no_grad():
            for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
                assert torch.equal(other(x), fast(x))


def test_both_kernels_and_both_orders_compute_the_same() -> None:
    torch.manual_seed(0)
    mask, bias = block_mask(), torch.randn(OUTPUTS)
    weight, x = torch.randn(OUTPUTS, INPUTS), torch.randn(33, INPUTS)
    dy = torch.randn(33, OUTPUTS).bfloat16()
    exact = x.bfloat16().double() @ (weight * mask).bfloat16().double().T + bias.double()
    room = x.abs().double() @ (weight * mask).abs().double().T + bias.abs().double()
    steps = dy.double().T @ x.bfloat16().double() * mask
    for stored in (True, False):
        plan = plan_layer(mask, blocks=stored)
        assert plan.blocks is stored and paired_of(plan) is not None
        for blocks in (True, False, None):
            inside, values = x.clone().requires_grad_(), plan.gather(weight).requires_grad_()
            y = half_linear(inside, plan, values, bias, Rounded(), blocks)
            assert ((y.double() - exact).abs() <= 2**-7 * room).all()
            dx, dvalues = torch.autograd.grad(y, (inside, values), dy)
            torch.testing.assert_close(
                dx.double(), dy.double() @ (weight * mask).bfloat16().double(), rtol=0, atol=1e-4
            )
            torch.testing.assert_close(plan.scatter(dvalues).double(), steps, rtol=0, atol=1e-4)


def test_nothing_is_timed_where_nobody_asked(clock: Clock) -> None:
    layer, masks = layer_and_masks(training=False)
    sparse: Any = SparseLinear.from_dense(layer, masks["weight"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        sparse(torch.randn(3, INPUTS))
    other = SparseLinear.from_dense(layer, torch.rand(OUTPUTS, INPUTS) < 0.5)
    other.let_choose(settled=None)
    assert sparse.blocks_at(torch.randn(3, INPUTS)) is None and other.blocks_at(torch.randn(3, INPUTS)) is None
    assert other.store_for_training(torch.randn(3, INPUTS)) is None and not clock.asked_kernels


def test_a_certain_verdict_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, masks = layer_and_masks(training=False)
    decided: list[int] = []

    def decide(*ways: Any, seconds: float) -> Verdict:
        decided.append(len(ways))
        return SPARSE

    monkeypatch.setattr(blocks_timed, "decide", decide)
    for _ in range(2):
        sparse: Any = SparseLinear.from_dense(layer, masks["weight"])
        sparse.let_choose(settled=None)
        found = sparse.blocks_at(torch.randn(3, INPUTS))
        assert found is not None and not found.blocks and "2 times as fast as in blocks" in str(found)
    assert decided == [2] and len(verdicts_here()) == 1


def test_replanted_layers_stay_as_they_are_stored(clock: Clock) -> None:
    from secateur.sparse.convert._replant import replant

    fast, _ = converted(clock, SPARSE, training=True)
    replant(fast, ~block_mask(), [])
    assert not fast.plan.blocks and torch.equal(fast.plan.mask(), ~block_mask())


def test_timing_a_training_step_rounds_at_each_as_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values change at each step: a step that found them rounded already would look faster than it is."""
    layer, masks = layer_and_masks(training=True)
    sparse: Any = SparseLinear.from_dense(layer, masks["weight"])
    sparse.let_choose(settled=None)
    made: list[object] = []
    plain = Rounded.of

    def of(self: Rounded, *args: Any) -> Tensor:
        made.append(self)  # kept alive, so that each is another object
        return plain(self, *args)

    monkeypatch.setattr(Rounded, "of", of)
    x, use = torch.randn(SAMPLES, INPUTS), Use((SAMPLES, INPUTS), training=True, autocast=torch.bfloat16)
    monkeypatch.setattr(choosing, "decide", lambda first, second, *, seconds: (first(), first(), DENSE)[2])
    with torch.autocast("cpu", torch.bfloat16):
        step = runner(sparse, x, use)
        step()
        first_call = len({id(each) for each in made})
        assert first_call == 4, "two in each of two choices: against the float32 kernels, and dense"
        step(), step()
    assert len({id(each) for each in made}) == first_call + 2
    made.clear()
    with torch.autocast("cpu", torch.bfloat16):
        whole_verdict(sparse, sparse, x, training=True)
    assert len(made) > 2 and len({id(each) for each in made}) == len(made)
