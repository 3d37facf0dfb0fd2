"""Plans made of masks, and where their weights stand: against lists of places made by hand, in the order of old."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from secateur import MaskError
from secateur._base import door
from secateur.sparse.plans import BLOCK_COLUMNS, LayerPlaces, LayerPlan, ListedPlaces, layer_of, plan_layer

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


def listed(mask: Tensor, counted: Tensor | None = None) -> tuple[Tensor, list[int]]:
    """Return places by block of columns, row and column, and the blocks' edges, with torch alone."""
    alive = (mask if counted is None else mask[counted]).any(0).cumsum(0)
    total = int(alive[-1])
    blocks = max(1, -(-total // BLOCK_COLUMNS))
    cuts = [int((alive < total * b // blocks).sum()) + 1 for b in range(1, blocks)]
    edges = [0, *cuts, mask.shape[1]]
    parts = []
    for first, last in pairwise(edges):
        at = mask[:, first:last].nonzero()
        parts.append(at[:, 0] * mask.shape[1] + at[:, 1] + first)
    return torch.cat(parts), edges


def drawn(rows: int, columns: int, density: float, seed: int) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density


CASES = [(1, 1, 1.0), (3, 70, 0.5), (17, 5, 0.0), (40, 64, 1.0), (9, 3000, 0.3), (33, 4300, 0.02), (5, 1408, 1.0)]


@pytest.mark.parametrize(("rows", "columns", "density"), CASES)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_order_is_by_block_row_and_column(rows: int, columns: int, density: float, threads: int) -> None:
    mask = drawn(rows, columns, density, rows)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        plan = plan_layer(mask)
        positions, edges = listed(mask)
        assert torch.equal(plan.positions, positions) and plan.edges.tolist() == edges
        assert plan.kept == len(positions) and torch.equal(plan.mask(), mask)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(6))
def test_rows_and_columns_left_out(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = drawn(30, 4000, 0.2, seed)
    rows, columns = torch.rand(30, generator=generator) < 0.7, torch.rand(4000, generator=generator) < 0.8
    rows[0] = columns[0] = True
    layer = layer_of(mask, rows, columns, rows)
    inner = mask[rows][:, columns]
    positions, edges = listed(inner)
    plan = LayerPlan.of_layer(layer)
    assert torch.equal(plan.positions, positions) and plan.edges.tolist() == edges
    # All of the dense weight: what is in the layer, in its order, then the rows that are not, row by row.
    dense_of = torch.arange(30)[rows][:, None] * 4000 + torch.arange(4000)[columns]
    idle = mask.clone()
    idle[rows] = False
    expected = torch.cat([dense_of.reshape(-1)[positions], idle.reshape(-1).nonzero()[:, 0]])
    places = LayerPlaces(layer, mask, rows, columns)
    assert torch.equal(places.listed(), expected) and len(places) == len(expected)
    dense, out = torch.randn(30, 4000, generator=generator), torch.empty(len(expected))
    places.take(dense, out)
    assert torch.equal(out, dense.reshape(-1)[expected])
    target = torch.full((30, 4000), 7.0)
    version = target._version
    places.put(out, target)
    assert torch.equal(target, torch.full((120000,), 7.0).index_copy(0, expected, out).view(30, 4000))
    assert target._version > version  # what is written natively is a write all the same


@pytest.mark.parametrize("rows", [8, 11])
def test_blocks_of_four(rows: int) -> None:
    mask = drawn(2, 50, 0.4, 1).repeat_interleave(4, 0)
    mask = torch.cat([mask, drawn(rows - 8, 50, 0.5, 2)])
    plan = plan_layer(mask, blocks=True)
    assert plan.blocks
    dense = torch.randn(rows, 50)
    assert torch.equal(plan.gather(dense), dense.reshape(-1)[plan.positions])
    assert torch.equal(plan.scatter(plan.gather(dense)), dense * mask)


def test_it_gathers_and_scatters_what_the_kernels_cannot_read() -> None:
    mask = drawn(20, 30, 0.3, 0)
    plan, (positions, _) = plan_layer(mask), listed(mask)
    for dense in (torch.randn(20, 30).double(), torch.randn(30, 20).t(), torch.randn(20, 30).half()):
        assert torch.equal(plan.gather(dense), dense.reshape(-1)[positions])
        assert torch.equal(plan.scatter(plan.gather(dense)), dense * mask)
    values = torch.randn(plan.kept, requires_grad=True)
    plan.scatter(values).square().sum().backward()
    assert values.grad is not None and torch.allclose(values.grad, 2 * values.detach())


def test_copies_and_pickles_hold_the_same_places() -> None:
    plan = plan_layer(drawn(20, 3000, 0.3, 0))
    again = pickle.loads(pickle.dumps(plan))
    assert torch.equal(again.positions, plan.positions) and torch.equal(again.edges, plan.edges)
    assert copy.deepcopy(plan) is plan


def test_too_many_weights_are_refused() -> None:
    with pytest.raises(MaskError, match="fewer than 2³¹"):
        LayerPlan(1, 1, torch.zeros(1, dtype=torch.int64).expand(2**31), torch.tensor([0, 1]))


def test_lengths_are_checked() -> None:
    native = door.native
    assert native is not None
    mask = drawn(4, 6, 0.5, 0)
    layer = layer_of(mask)
    places, flags = native.DensePlaces(layer), [torch.ones(n, dtype=torch.bool).numpy() for n in (4, 6)]
    with pytest.raises(ValueError, match="the dense weight must have 24 numbers, got 23"):
        places.take([64, 23], [64, len(layer)], 1)
    with pytest.raises(ValueError, match="what is put must have"):
        places.put([64, len(layer) + 1], [64, 24], 1)
    with pytest.raises(ValueError, match="as many rows and columns as are taken"):
        native.DensePlaces(layer, drawn(5, 6, 0.5, 0).numpy(), torch.ones(5).bool().numpy(), flags[1])
    with pytest.raises(ValueError, match="a flag is needed for each row and each column"):
        native.SparseLayer(mask.numpy(), flags[1], flags[1], flags[0], 8, 1)
    with pytest.raises(ValueError, match="at least one column"):
        native.SparseLayer(mask.numpy(), *flags, flags[0], 0, 1)


def test_a_list_of_places() -> None:
    places, target = ListedPlaces(torch.tensor([5, 0])), torch.zeros(2, 3)
    places.put(torch.tensor([1.0, 2.0]), target)
    assert target.tolist() == [[2, 0, 0], [0, 0, 1]] and len(places) == 2
