"""Patches of convolutions whose products are taken of two halves of bfloat16: against double precision, and when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

import secateur as sc
from secateur._base import door
from secateur.sparse import compile_step
from secateur.sparse.calls import splits_products
from secateur.sparse.layers import sparse_convolution

pytestmark = pytest.mark.skipif(
    door.native is None or not door.native.splits_products(), reason="needs AMX, and the kernels"
)
Shape = tuple[int, int, int, int, int, int]  # inputs, outputs, height, width, padding, batch


@contextmanager
def precision(wanted: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _layer(shape: Shape, seed: int) -> tuple[nn.Conv2d, Tensor, Tensor, Tensor]:
    """A convolution that keeps nine tenths of its weights, its mask, inputs, and the gradient of its outputs."""
    inputs, outputs, height, width, padding, batch = shape
    dense = nn.Conv2d(inputs, outputs, 3, padding=padding)
    dense.weight = nn.Parameter(_randn(outputs, inputs, 3, 3, seed=seed))
    mask = torch.rand(dense.weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.9
    x = _randn(batch, inputs, height, width, seed=seed + 1)
    dy = _randn(batch, outputs, height + 2 * padding - 2, width + 2 * padding - 2, seed=seed + 2)
    return dense, mask, x, dy


def _ours(dense: nn.Conv2d, mask: Tensor, x: Tensor, dy: Tensor) -> list[Tensor]:
    """The outputs, and the gradients of inputs and weights."""
    sparse, leaf = sparse_convolution(dense, mask), x.clone().requires_grad_()
    y = sparse(leaf)
    y.backward(dy)
    assert leaf.grad is not None and sparse.values.grad is not None
    return [y.detach(), leaf.grad, sparse.values.grad]


def _torch(dense: nn.Conv2d, mask: Tensor, x: Tensor, dy: Tensor, rounded: bool = False) -> list[Tensor]:
    """The same in double precision, of numbers rounded to bfloat16 or not."""
    w, leaf, up = dense.weight.detach() * mask, x, dy
    if rounded:
        w, leaf, up = w.bfloat16(), leaf.bfloat16(), up.bfloat16()
    w, leaf = w.double().requires_grad_(), leaf.double().requires_grad_()
    assert dense.bias is not None
    y = conv2d(leaf, w, dense.bias.detach().double(), padding=dense.padding)  # pyright: ignore[reportArgumentType]
    y.backward(up.double())
    assert leaf.grad is not None and w.grad is not None
    return [y.detach(), leaf.grad, w.grad[mask]]


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@settings(max_examples=40)
@given(
    st.tuples(
        st.integers(16, 70), st.integers(16, 70), st.integers(7, 14), st.integers(7, 14), st.integers(0, 2),
        st.sampled_from([1, 5, 16, 33, 48]),
    ),
    st.integers(0, 99),
)  # fmt: skip
@example((32, 64, 16, 16, 1, 32), 0)  # whole tiles everywhere
@example((16, 33, 9, 8, 1, 17), 0)  # half of a tile, and a border of one row
def test_they_lose_little_of_float32_and_less_than_bfloat16(shape: Shape, seed: int) -> None:
    drawn = _layer(shape, seed)
    with precision("high"):
        ours = _ours(*drawn)
    for found, exact, coarse in zip(ours, _torch(*drawn), _torch(*drawn, rounded=True), strict=True):
        assert _error(found, exact) < 2e-4
        assert _error(found, exact) < _error(coarse, exact) / 8


def test_they_are_taken_only_where_they_are_allowed() -> None:
    drawn = _layer((32, 32, 12, 12, 1, 32), 0)
    exact, whole = _torch(*drawn), _ours(*drawn)
    assert not splits_products()
    with precision("high"):
        assert splits_products()
        high = _ours(*drawn)
    with torch.autocast("cpu", torch.float16):
        assert not splits_products()
    with torch.autocast("cpu", torch.bfloat16):
        assert splits_products()
    assert not splits_products()
    for a, b, c in zip(whole, high, exact, strict=True):
        assert _error(a, c) < 3e-6 < _error(b, c)


ASKED = {
    "torch.backends.cuda.matmul.allow_tf32 = True": False,
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": False,
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'": True,
    "torch.backends.mkldnn.conv.fp32_precision = 'tf32'": True,
    "torch.backends.mkldnn.conv.fp32_precision = 'ieee'": False,
}


@pytest.mark.parametrize("said", ASKED)
def test_whichever_way_torch_was_told(said: str) -> None:
    """In a process of its own: the older and the newer ways of saying it do not go together in one."""
    code = f"import torch; {said}; from secateur.sparse.calls import splits_products; print(splits_products())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(ASKED[said])]


def test_the_gradients_are_taken_as_the_outputs_were() -> None:
    """Autograd runs backward outside of the context in which the outputs were computed."""
    dense, mask, x, dy = _layer((32, 32, 12, 12, 1, 16), 0)
    with precision("high"):
        both = _ours(dense, mask, x, dy)
        sparse, leaf = sparse_convolution(dense, mask), x.clone().requires_grad_()
        y = sparse(leaf)
    y.backward(dy)
    assert leaf.grad is not None and torch.equal(leaf.grad, both[1])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_the_numbers(threads: int) -> None:
    drawn, results = _layer((40, 50, 20, 20, 1, 32), 0), []
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            with precision("high"):
                results.append(_ours(*drawn))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def _trained(way: str, steps: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 40, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(40 * 64, 10),
    )  # fmt: skip
    masks = sc.prune(model, sc.methods.magnitude(density=0.7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = _randn(32, 3, 16, 16, seed=1), torch.arange(32) % 10
    if way in ("double", "torch"):
        sc.hold(model, masks)
        model, x = (model.double(), x.double()) if way == "double" else (model, x)
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "torch"):
                loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
    else:
        step = compile_step(model, masks, cross_entropy, optimizer)
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "split"):
                step(x, y)
        step.write_back()
    return [p.detach().double() for p in model.parameters()]


def test_a_compiled_step_under_autocast_is_nearer_to_float32_than_torch_is() -> None:
    """And repeats itself: what a step leaves in its workspace does not reach the next one."""
    exact, split, again, coarse = _trained("double"), _trained("split"), _trained("split"), _trained("torch")
    assert all(torch.equal(a, b) for a, b in zip(split, again, strict=True))
    whole = _trained("fused")
    assert not all(torch.equal(a, b) for a, b in zip(split, whole, strict=True))
    distance = [sum(float((a - b).norm()) for a, b in zip(way, exact, strict=True)) for way in (whole, split, coarse)]
    assert distance[0] < distance[1] < distance[2] / 8
