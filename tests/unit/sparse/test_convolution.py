"""Sparse convolutions against dense ones in double precision, on every instruction set."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur._base import door
from secateur.sparse.layers import (
    SparseConv1d,
    SparseConv2d,
    SparseConvolution,
    sparse_convolution,
)

ISAS = ["torch"] if door.native is None else list(door.native.supported_isas())


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv1d | nn.Conv2d, Tensor, Tensor]:
    """A convolution, a mask for it and a batch of inputs that it takes."""
    groups, rank = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 2, 2]))
    inputs, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 5))
    kernel = tuple(draw(st.sampled_from([1, 2, 3, 4, 5, 7, 11])) for _ in range(rank))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    padding = tuple(draw(st.integers(0, k * d // 2 + 1)) for k, d in zip(kernel, dilation, strict=True))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [draw(st.integers(low, low + 12)) for low in least]
    kind = nn.Conv2d if rank == 2 else nn.Conv1d
    seed, bias = draw(st.integers(0, 99)), draw(st.booleans())
    made = kind(inputs, outputs, kernel, stride, padding, dilation, groups, bias=bias, device="meta")
    made.weight = nn.Parameter(_randn(*made.weight.shape, seed=seed))
    if bias:
        made.bias = nn.Parameter(_randn(outputs, seed=seed + 1))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    mask = torch.rand(made.weight.shape, generator=torch.Generator().manual_seed(seed)) < density
    if draw(st.booleans()):
        mask[0] = False  # a filter without weights
    batch = draw(st.sampled_from([1, 3, 16, 17, 33]))
    return made, mask, _randn(batch, inputs, *size, seed=seed + 2)


def _close(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5 * (1 + float(exact.abs().max())))


def one_of(size: tuple[int, int], kernel: int, density: float, **options: int) -> tuple[nn.Conv2d, Tensor, Tensor]:
    """A convolution of a given shape, with a mask and a batch."""
    torch.manual_seed(0)
    made = nn.Conv2d(6, 30, kernel, **options)
    return made, torch.rand(made.weight.shape) < density, _randn(18, 6, *size, seed=2)


@st.composite
def dense_convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, Tensor, Tensor]:
    """A 3×3 convolution that keeps most of its weights, so that its outputs are computed in patches of 4×4."""
    inputs, outputs = draw(st.sampled_from([3, 14, 16, 23, 32, 40])), draw(st.integers(14, 40))
    padding = draw(st.integers(0, 2))
    size = [draw(st.integers(7 - 2 * padding, 15)) for _ in range(2)]
    seed = draw(st.integers(0, 99))
    made = nn.Conv2d(inputs, outputs, 3, padding=padding, bias=draw(st.booleans()), device="meta")
    made.weight = nn.Parameter(_randn(*made.weight.shape, seed=seed))
    if made.bias is not None:
        made.bias = nn.Parameter(_randn(outputs, seed=seed + 1))
    density = draw(st.sampled_from([0.6, 0.9, 1.0]))
    mask = torch.rand(made.weight.shape, generator=torch.Generator().manual_seed(seed)) < density
    return made, mask, _randn(draw(st.sampled_from([1, 5, 16, 33])), inputs, *size, seed=seed + 2)


def _compare(isa: str, dense: nn.Conv1d | nn.Conv2d, mask: Tensor, x: Tensor) -> None:
    """Output and all gradients against double precision."""
    before = door.isa()
    if door.native is not None:
        door.native.use_isa(isa)
    try:
        sparse = sparse_convolution(dense, mask)
        ours = x.clone().requires_grad_()
        y = sparse(ours)
        dy = _randn(*y.shape, seed=5)
        y.backward(dy)
        exact = copy.deepcopy(dense).double()
        with torch.no_grad():
            exact.weight.mul_(mask)
        wide = x.double().requires_grad_()
        y64 = exact(wide)
        y64.backward(dy.double())
    finally:
        if door.native is not None:
            door.native.use_isa(before)
    assert ours.grad is not None and wide.grad is not None and exact.weight.grad is not None
    _close(y.detach(), y64.detach())
    _close(ours.grad, wide.grad)
    assert sparse.values.grad is not None
    if sparse.plan.kept:
        _close(sparse.values.grad, exact.weight.grad.reshape(-1)[sparse.plan.positions])
    if dense.bias is not None:
        assert sparse.bias is not None and sparse.bias.grad is not None and exact.bias is not None
        assert exact.bias.grad is not None
        _close(sparse.bias.grad, exact.bias.grad)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60)
@given(drawn=convolutions())
@example(drawn=one_of((33, 34), 5, 0.3, stride=2, padding=2))  # so large that it is cut to fit the caches
@example(drawn=one_of((12, 12), 5, 0.2))  # the kernel reaches far beyond its image when it is turned around
@example(drawn=one_of((11, 9), 5, 0.9, padding=1, groups=2))
@example(drawn=one_of((9, 45), 4, 0.1, dilation=2))  # columns in several pieces
@example(drawn=one_of((3, 3), 3, 0.5))
@example(drawn=one_of((3, 3), 11, 0.3, padding=5))  # weights that reach no position at all
def test_output_and_gradients_are_those_of_the_dense_convolution(
    isa: str, drawn: tuple[nn.Conv1d | nn.Conv2d, Tensor, Tensor]
) -> None:
    """Whatever the sizes; pruned weights have no gradient because they do not exist."""
    _compare(isa, *drawn)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30)
@given(drawn=dense_convolutions())
def test_a_convolution_that_is_nearly_dense_is_computed_in_patches(
    isa: str, drawn: tuple[nn.Conv2d, Tensor, Tensor]
) -> None:
    """Images that patches do not fill, channels that vectors do not, every padding that has a gradient."""
    _compare(isa, *drawn)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_the_numbers(threads: int) -> None:
    """Every number is summed by one thread, so that more threads give the same bits."""
    dense, x = nn.Conv2d(9, 30, 3, padding=1, stride=2), _randn(20, 9, 60, 50, seed=0)
    _same_bits(
        sparse_convolution(dense, _randn(30, 9, 3, 3, seed=1) > torch.linspace(-1, 1, 30).view(30, 1, 1, 1)),
        x,
        threads,
    )
    nearly_dense = sparse_convolution(nn.Conv2d(9, 30, 3, padding=1), _randn(30, 9, 3, 3, seed=1) > -1)
    _same_bits(nearly_dense, x[:, :, :30, :29].contiguous(), threads)


def _same_bits(sparse: SparseConvolution, x: Tensor, threads: int) -> None:
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        leaf = x.clone().requires_grad_()
        sparse.zero_grad()
        y = sparse(leaf)
        y.square().sum().backward()
        assert leaf.grad is not None and sparse.values.grad is not None
        results.append([y.detach(), leaf.grad, sparse.values.grad.clone()])
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_padding_of_same_is_understood() -> None:
    """The plan holds numbers, whatever words torch was given."""
    for dense in (nn.Conv1d(2, 3, 5, padding="same"), nn.Conv1d(2, 3, 5, padding="valid")):
        x = _randn(2, 2, 9, seed=0)
        sparse = sparse_convolution(dense, torch.ones_like(dense.weight) > 0)
        torch.testing.assert_close(sparse(x), dense(x))


def test_dense_state_goes_in_and_out() -> None:
    """The state_dict is that of the dense convolution, and a weight that the mask has not is refused."""
    dense = nn.Conv2d(2, 3, 3)
    mask = _randn(3, 2, 3, 3, seed=0) > 0
    sparse = sparse_convolution(dense, mask)
    state = sparse.state_dict()
    assert set(state) == {"weight", "bias"}
    assert torch.equal(state["weight"], dense.weight.detach() * mask)
    sparse.load_state_dict({k: v * 2 for k, v in state.items()})
    assert torch.equal(sparse.weight, dense.weight * mask * 2)
    with pytest.raises(RuntimeError, match=r"weight has \d+ non-zero weights where the mask of this layer has none"):
        sparse.load_state_dict(dense.state_dict())


def test_copies_and_pickles_compute_the_same() -> None:
    """Networks are compiled again where they arrive."""
    sparse, x = sparse_convolution(nn.Conv2d(2, 3, 3), _randn(3, 2, 3, 3, seed=0) > 0), _randn(2, 2, 5, 5, seed=1)
    y = sparse(x)
    for other in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert torch.equal(other(x), y)
        assert other.values is not sparse.values


def test_a_dense_convolution_comes_back_bit_for_bit() -> None:
    """Its options as well."""
    dense = nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False).eval()
    with torch.no_grad():
        dense.weight[0] = 0
    back = sparse_convolution(dense, dense.weight != 0).dense()
    assert repr(back) == repr(dense) and not back.training
    assert torch.equal(back.weight, dense.weight)


def test_what_the_kernels_do_not_take_is_computed_densely_and_said() -> None:
    """Double precision and empty batches; a sample without a batch runs as a batch of one."""
    dense = nn.Conv2d(2, 3, 3)
    sparse = sparse_convolution(dense, torch.ones_like(dense.weight) > 0)
    assert sparse(torch.zeros(0, 2, 5, 5)).shape == (0, 3, 3, 3)
    torch.testing.assert_close(sparse(torch.ones(2, 5, 5)), dense(torch.ones(2, 5, 5)))
    if door.native is not None:
        with pytest.warns(UserWarning, match="SparseConv2d computes densely: its kernels take float32 on cpu"):
            sparse.double()(torch.zeros(1, 2, 5, 5, dtype=torch.float64))


def test_inputs_that_do_not_fit_are_refused() -> None:
    """With the shape that was expected."""
    sparse = sparse_convolution(nn.Conv1d(2, 3, 3), torch.ones(3, 2, 3) > 0)
    assert isinstance(sparse, SparseConv1d) and not isinstance(sparse, SparseConv2d)
    with pytest.raises(ValueError, match=r"the input of SparseConv1d must be \[batch, 2 channels, columns\], got"):
        sparse(torch.zeros(1, 4, 9))
    if door.native is not None:
        with pytest.raises(ValueError, match="kernel of a convolution must not be larger than its padded input"):
            sparse(torch.zeros(1, 2, 2))
