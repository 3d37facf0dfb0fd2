"""Sparse layers under autocast and in bfloat16: the types of the dense ones, and their numbers within rounding."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import DerivativeError
from secateur._base import door
from secateur.sparse import SparseLinear, densify, report_of, sparsify
from secateur.sparse.calls import Rounded
from secateur.sparse.layers import RoundedLinear
from secateur.sparse.measured import BreakEven, Machine
from timed_cases import DENSE, SPARSE, Clock, masks_of
from transformer_cases import Conv1D

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
ALWAYS = Machine("always sparse", False, (BreakEven(64, 128, 2.0),), convolution=2.0)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def both(model: nn.Module) -> tuple[Any, Any]:
    """A model as the kernels run it, and the dense one of the same weights."""
    fast = sparsify(model, masks_of(model), machine=ALWAYS)
    return fast, densify(fast)


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(70, 50), (3, 5, 70)),
    "chain": (lambda: nn.Sequential(nn.Linear(70, 50), nn.ReLU(), nn.Linear(50, 20)), (9, 70)),
    "convolution": (lambda: nn.Conv2d(3, 8, 3), (2, 3, 9, 9)),
    "sequence": (lambda: nn.Conv1d(3, 8, 3), (2, 3, 9)),
    "network": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)),
        (7, 3, 8, 8),
    ),
    "lstm": (lambda: nn.LSTM(12, 16, bidirectional=True), (5, 4, 12)),
    "gru": (lambda: nn.GRU(12, 16, num_layers=2), (5, 4, 12)),
}


HALVES = [(name, dtype, torch.bfloat16) for name in MODELS for dtype in (torch.float32, torch.bfloat16)]
OTHERS = [(name, torch.float32, torch.float16) for name in ("linear", "chain", "convolution", "sequence")]


@pytest.mark.parametrize(("name", "dtype", "cast"), HALVES + OTHERS)
def test_types_and_numbers_are_those_of_the_dense_model(name: str, dtype: torch.dtype, cast: torch.dtype) -> None:
    build, shape = MODELS[name]
    torch.manual_seed(0)
    fast, dense = both(build())
    for trains in (True, False):
        x = torch.randn(shape).to(dtype)
        inputs = [x.clone().requires_grad_(trains) for _ in range(2)]
        with torch.autocast("cpu", cast), torch.set_grad_enabled(trains):
            theirs = first(_of_torch(dense, inputs[1]))
            ours = first(fast(inputs[0]))
        assert ours.dtype is theirs.dtype and ours.shape == theirs.shape
        torch.testing.assert_close(ours.float(), theirs.float(), atol=0.03, rtol=0.03)
        if not trains:
            continue
        back = torch.randn_like(theirs) / 8
        ours.backward(back), theirs.backward(back)
        for mine, other in ((inputs[0], inputs[1]), *zip(_biases(fast), _biases(dense), strict=True)):
            assert mine.grad is not None and other.grad is not None and mine.grad.dtype is mine.dtype
            torch.testing.assert_close(mine.grad.float(), other.grad.float(), atol=0.05, rtol=0.05)


def _of_torch(dense: nn.Module, x: Tensor) -> Any:
    """What the dense model computes; a skip where torch itself cannot, on this processor."""
    try:
        return dense(x)
    except RuntimeError as problem:
        if "could not create a primitive" not in str(problem):
            raise
        pytest.skip(f"torch has no {type(dense).__name__} of this type on this processor: {problem}")


def _biases(model: nn.Module) -> list[Tensor]:
    return [p for n, p in model.named_parameters() if "bias" in n]


def test_values_stay_float32_masters_and_train() -> None:
    torch.manual_seed(0)
    fast, dense = both(nn.Linear(64, 32))
    x, back = torch.randn(40, 64), torch.randn(40, 32).bfloat16()
    optimizer = torch.optim.SGD(fast.parameters(), lr=1e-4)
    for _ in range(3):  # steps that bfloat16 weights would not feel: each is far below their spacing
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = fast(x)
        y.backward(back)
        want = (back.double().T @ x.bfloat16().double())[fast.plan.mask()]
        torch.testing.assert_close(fast.values.grad.double(), want, rtol=1e-4, atol=1e-4)
        optimizer.step()
    moved = fast.values.detach() - dense.weight[fast.plan.mask()].detach()
    torch.testing.assert_close(moved.double(), -3e-4 * want, rtol=1e-2, atol=1e-6)


def test_rounded_weights_follow_the_values() -> None:
    torch.manual_seed(0)
    fast, _ = both(nn.Linear(64, 32, bias=False))
    x = torch.randn(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            before = fast(x)
            fast.values.mul_(2)
            assert torch.equal(fast(x), 2 * before)
            fast.values.data.mul_(2)  # leaves no trace: taken up at eval() or train()
            assert torch.equal(fast.eval()(x), 4 * before)
            fast.values = nn.Parameter(fast.values.detach() / 4)
            assert torch.equal(fast(x), before)
        y = fast(x)
        for factor in (2, 4, 8, 2):  # each in memory that the one before has just left
            other = torch.func.functional_call(fast, {"values": fast.values.detach() * factor}, (x,))
            assert torch.equal(other, factor * before)
        back = torch.randn_like(y)
        (dx,) = torch.autograd.grad(fast(x.requires_grad_()), x, back)
        want = back.double() @ fast.weight.detach().bfloat16().double()
        torch.testing.assert_close(dx.double(), want, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            fast.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(back)


def test_rounded_weights_in_use_are_not_written_over() -> None:
    fast, _ = both(nn.Linear(64, 32))
    rounded, values = Rounded(), fast.values.detach()
    in_use = rounded.of(fast.plan, values)
    before = in_use.clone()
    assert not torch.equal(rounded.of(fast.plan, values * 2)[:-32], before[:-32])
    assert torch.equal(in_use[:-32], before[:-32])


def test_copies_and_pickles_leave_rounded_weights_behind() -> None:
    fast, _ = both(nn.Linear(64, 32))
    x = torch.randn(8, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        want = fast(x)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert "_rounded" not in other.__dict__ and torch.equal(other(x), want)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(fast(x), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x[:0]), want[:0]) and fast(x[0]).shape == (32,)


def test_a_model_in_bfloat16() -> None:
    torch.manual_seed(0)
    fast, dense = both(nn.Linear(64, 32).bfloat16())
    assert type(fast) is SparseLinear and fast.values.dtype is torch.bfloat16
    x = torch.randn(40, 64).bfloat16()
    torch.testing.assert_close(fast(x), dense(x), rtol=0.02, atol=0.02)
    back = torch.randn(40, 32).bfloat16()
    fast(x).backward(back), dense(x).backward(back)
    assert fast.values.grad.dtype is torch.bfloat16
    torch.testing.assert_close(fast.values.grad, dense.weight.grad[fast.plan.mask()], rtol=0.02, atol=0.1)
    mixed = nn.Linear(64, 32)
    mixed.weight = nn.Parameter(mixed.weight.detach().bfloat16())
    kept = sparsify(mixed, masks_of(mixed), machine=ALWAYS)
    assert type(kept) is nn.Linear and "float32 on cpu; the kernels take bfloat16" in str(report_of(kept))


@pytest.mark.parametrize("name", ["attention", "conv1d", "encoder"])
def test_parts_of_transformers_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    builds: dict[str, Callable[[], nn.Module]] = {
        "attention": lambda: nn.MultiheadAttention(64, 4, batch_first=True),
        "conv1d": lambda: Conv1D(48, 64),
        "encoder": lambda: nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True),
    }
    model = builds[name]().bfloat16()
    fast, dense = both(model)
    assert "sparse" in str(report_of(fast)) and all(p.dtype is torch.bfloat16 for p in fast.parameters())
    x = torch.randn(3, 7, 64).bfloat16()
    inputs = (x, x, x) if name == "attention" else (x,)
    ours, theirs = first(fast(*inputs)), first(dense(*inputs))
    assert ours.dtype is torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0.03)
    back = torch.randn_like(theirs)
    ours.backward(back), theirs.backward(back)
    mine, other = _biases(fast), _biases(dense)
    for a, b in zip(mine, other, strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0.05, atol=0.2)


def test_second_derivatives_are_refused() -> None:
    fast, _ = both(nn.Linear(64, 32))
    x = torch.randn(8, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(DerivativeError, match="no second derivatives"):
        torch.autograd.grad(fast(x).sum(), x, create_graph=True)


def test_ways_are_chosen_by_time_under_autocast(clock: Clock) -> None:
    """bfloat16, float32 kernels, dense: in this order, each against the best so far."""
    torch.manual_seed(0)
    model = nn.Linear(64, 32).eval()
    x = torch.randn(8, 64)
    clock.models = [DENSE]
    clock.first_calls = [SPARSE, DENSE]  # float32 kernels beat bfloat16, and dense does not beat those
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        fast: Any = sparsify(model, masks_of(model), example_inputs=x)
        assert clock.asked[-1].endswith("inference at 8 × 64, autocast to bfloat16")
        assert not clock.first_calls and fast._choices == {(("layer", torch.bfloat16), False, 10): 1}
        values, bias = fast.weight, fast.bias
        torch.testing.assert_close(fast(x), nn.functional.linear(x.double(), values.double(), bias.double()).bfloat16())
        clock.first_calls = [DENSE, SPARSE]
        fast(torch.randn(80, 64))
        assert fast._choices[("layer", torch.bfloat16), False, 13] == 2


def test_a_dense_layer_rounds_its_weight_once(clock: Clock) -> None:
    model = nn.Linear(64, 32).eval()
    masks, x = masks_of(model), torch.randn(8, 64)
    clock.layers = lambda kind: DENSE
    clock.models, clock.first_calls = [DENSE, DENSE], [DENSE, DENSE]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        fast = sparsify(model, masks, example_inputs=x)
    assert type(fast) is nn.Linear
    made = RoundedLinear.from_dense(fast)

    def rounded(layer: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():  # one each: autocast itself remembers weights
            return layer(x)

    want = rounded(fast)
    assert torch.equal(rounded(made), want) and torch.equal(rounded(copy.deepcopy(made)), want)
    with torch.no_grad():
        made.weight.mul_(2), fast.weight.mul_(2)
    assert torch.equal(rounded(made), rounded(fast)) and not torch.equal(rounded(made), want)
    made.weight.data.mul_(2), fast.weight.data.mul_(2)
    assert torch.equal(rounded(made.train()), rounded(fast))
    torch.testing.assert_close(made(x), fast(x))
    assert type(densify(nn.Sequential(made))[0]) is nn.Linear
