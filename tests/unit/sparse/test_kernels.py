"""The sparse product against float64 dense torch, on every instruction set this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from secateur._base import door
from secateur.sparse.calls import sparse_chain
from secateur.sparse.plans import LayerPlan, plan_layer

NATIVE = door.native
ENGINES = ["torch"] if NATIVE is None else [*NATIVE.supported_isas(), "torch"]
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a test with each instruction set, and without the kernels."""
    if request.param == "torch":
        monkeypatch.setattr(door, "native", None)
        yield "torch"
        return
    assert NATIVE is not None
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


def random_mask(rows: int, columns: int, density: float, generator: torch.Generator) -> Tensor:
    """Random, with some rows and columns empty."""
    mask = torch.rand(rows, columns, generator=generator) < density
    mask[torch.rand(rows, generator=generator) < 0.2] = False
    mask[:, torch.rand(columns, generator=generator) < 0.2] = False
    return mask if density < 1 else torch.ones(rows, columns, dtype=torch.bool)


def assert_close(got: Tensor | None, want: Tensor) -> None:
    assert got is not None and got.shape == want.shape
    if want.numel():
        scale = max(1.0, want.abs().max().item())
        assert (got.double() - want).abs().max().item() <= 2e-5 * scale


def assert_chain_is_right(
    plans: list[LayerPlan], batch: int, biased: bool, generator: torch.Generator, threads: int
) -> None:
    """Forward and all gradients of a chain against float64 dense torch."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(batch, plans[0].columns).requires_grad_()
    values = tuple(normal(plan.kept).requires_grad_() for plan in plans)
    biases = tuple(normal(plan.rows).requires_grad_() if biased else None for plan in plans)
    leaves = [x, *values, *(b for b in biases if b is not None)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = sparse_chain(x, tuple(plans), values, biases)
        dy = torch.randn(y.shape, generator=generator)
        grads = torch.autograd.grad(y, leaves, dy)
        with torch.no_grad():
            inferred = sparse_chain(x, tuple(plans), values, biases)
            single = sparse_chain(x[-1:], tuple(plans), values, biases)
    finally:
        torch.set_num_threads(before)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    z, bias = exact[0], iter(exact[1 + len(plans) :])
    for i, plan in enumerate(plans):
        z = z @ plan.scatter(exact[1 + i]).t()
        z = z + next(bias) if biased else z
        z = torch.relu(z) if i + 1 < len(plans) else z
    assert_close(y.detach(), z.detach())
    assert_close(inferred, z.detach())
    assert_close(single, z[-1:].detach())
    for got, want in zip(grads, torch.autograd.grad(z, exact, dy.double()), strict=True):
        assert_close(got, want)


@SETTINGS
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    batch=st.sampled_from([1, 2, 7, 15, 16, 17, 31, 33, 64, 100, 128, 129, 150, 300]),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.7, 1.0]),
    biased=st.booleans(),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_one_layer(
    engine: str, rows: int, columns: int, batch: int, density: float, biased: bool, threads: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    plan = plan_layer(random_mask(rows, columns, density, generator))
    assert_chain_is_right([plan], batch, biased, generator, threads)


@SETTINGS
@given(
    widths=st.lists(st.integers(1, 40), min_size=3, max_size=5),
    batch=st.sampled_from([1, 5, 16, 40, 100, 200]),
    density=st.sampled_from([0.05, 0.3, 1.0]),
    threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 2**31),
)
def test_chains_with_relu_between(
    engine: str, widths: list[int], batch: int, density: float, threads: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = list(zip(widths[1:], widths[:-1], strict=True))
    plans = [plan_layer(random_mask(rows, columns, density, generator)) for rows, columns in sizes]
    assert_chain_is_right(plans, batch, True, generator, threads)


@pytest.mark.parametrize(
    ("rows", "columns", "batch", "density"),
    [(1, 1, 1, 1.0), (300, 784, 100, 0.05), (10, 4000, 65, 0.2), (4000, 10, 48, 0.2), (64, 96, 4096, 0.1)],
)
def test_sizes_of_real_layers(engine: str, rows: int, columns: int, batch: int, density: float) -> None:
    generator = torch.Generator().manual_seed(1)
    plan = plan_layer(random_mask(rows, columns, density, generator))
    assert_chain_is_right([plan], batch, True, generator, 2)


@pytest.mark.slow
def test_largest_layer(engine: str) -> None:
    generator = torch.Generator().manual_seed(2)
    plan = plan_layer(random_mask(4096, 4096, 0.02, generator))
    assert_chain_is_right([plan], 128, True, generator, 2)


def test_rows_of_a_larger_tensor_are_read_in_place(engine: str, generator: torch.Generator) -> None:
    plan = plan_layer(random_mask(9, 20, 0.5, generator))
    values = torch.randn(plan.kept, generator=generator)
    wide = torch.randn(37, 50, generator=generator)
    for x in (wide[:, 3:23], wide.t()[:20, :20].t(), wide[:1, :20].expand(8, 20), wide[::2, :20]):
        want = x.double() @ plan.scatter(values).double().t()
        assert_close(sparse_chain(x, (plan,), (values,), (None,)), want)


def test_expanded_gradients_are_read_right(engine: str, generator: torch.Generator) -> None:
    # y.sum() hands back one number, expanded over the batch: strides of zero.
    plan = plan_layer(random_mask(9, 20, 0.5, generator))
    values = torch.randn(plan.kept, generator=generator, requires_grad=True)
    x = torch.randn(11, 20, generator=generator)
    (got,) = torch.autograd.grad(sparse_chain(x, (plan,), (values,), (None,)).sum(), values)
    assert_close(got, plan.gather(x.double().sum(0).expand(9, 20)))


def test_nan_and_infinity_pass_through(engine: str) -> None:
    plan = plan_layer(torch.tensor([[True, False], [False, True]]))
    values, biases = (torch.ones(2), torch.ones(2)), (torch.zeros(2), torch.zeros(2))
    x = torch.tensor([[float("nan"), 1.0], [2.0, float("inf")]])
    got = sparse_chain(x, (plan, plan), values, biases)
    want = torch.tensor([[float("nan"), 1.0], [2.0, float("inf")]])
    torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.skipif(NATIVE is None, reason="needs the compiled kernels")
@pytest.mark.parametrize(
    ("positions", "edges", "says"),
    [
        ([0, 6], [0, 3], "position 6 lies outside the layer"),
        ([-1], [0, 3], "position -1 lies outside the layer"),
        ([2, 1], [0, 3], "must be sorted"),
        ([1, 1], [0, 3], "must be sorted"),
        ([0, 2, 1], [0, 2, 3], "must be sorted"),
        ([0], [0, 2], "must begin at 0 and end at the number of columns"),
        ([0], [0, 2, 2, 3], "ascending order"),
    ],
)
def test_bounds_are_checked_when_a_plan_is_made(positions: list[int], edges: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LayerPlan(2, 3, torch.tensor(positions), torch.tensor(edges))


def test_plan_cuts_wide_layers_into_blocks_of_living_columns() -> None:
    mask = torch.zeros(2, 10_000, dtype=torch.bool)
    mask[:, ::3] = True  # 3334 living columns: three blocks
    plan = plan_layer(mask)
    living = [int(mask[:, a:b].any(0).sum()) for a, b in zip(plan.edges[:-1], plan.edges[1:], strict=True)]
    assert sum(living) == 3334 and len(living) == 3 and max(living) - min(living) <= 1
    assert torch.equal(plan.mask(), mask)
