"""From a mask to a plan: where a layer's surviving weights are, in the order in which the kernels want them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur._base import door
from secateur._base.errors import MaskError
from secateur._base.recent import remember
from secateur._base.types import Bool, Float, Int
from secateur.sparse.plans._places import LayerPlaces, floats, readable
from secateur.sparse.plans._survivors import Survivors, refuse_too_many
from secateur.sparse.timing import Paces

# The weight gradient reads whole columns of activations: 1408 of them, 128 samples each, fill 700 KB of the
# second-level cache. A constant, so that stored values mean the same on every machine.
BLOCK_COLUMNS = 1408

# Chains that begin with one plan: a layer may change its neighbours any number of times.
_CHAINS = 8

# Outputs of one block, for which the kernels load an activation once.
BLOCK_ROWS = 4


class LayerPlan(Survivors):
    """Where the surviving weights of one linear layer are. Immutable; copies share it.

    The compiled layer knows the column of each weight, and where each row begins; with it there is no list of places
    beside that, unless a differentiable `scatter` has asked for one.

    Attributes:
        rows: output features.
        columns: input features.
        edges: where the blocks of columns begin, and the end.
        blocks: whether the weights are whole blocks of four rows of one column. Then the storage order is by block
            of columns, by group of four rows, by column, by row; up to three rows at the end follow, row by row.
        layer: the compiled kernels' view of this plan, None without them.
    """

    made_of = ("rows", "columns", "positions", "edges", "blocks")

    def __init__(
        self,
        rows: int,
        columns: int,
        positions: Int[Tensor, " kept"],
        edges: Int[Tensor, " blocks"],
        blocks: bool = False,
    ) -> None:
        super().__init__((rows, columns), positions)
        # The native layer checks every index once, here, and never again.
        native, places = door.native, (positions.numpy(), edges.numpy())
        self._set(None if native is None else native.SparseLayer(rows, columns, *places, blocks), edges, blocks)

    @staticmethod
    def of_layer(layer: Any) -> LayerPlan:
        """Make the plan of a compiled layer, which is not of blocks."""
        plan = LayerPlan.__new__(LayerPlan)
        plan.shape = torch.Size((layer.rows, layer.columns))
        plan._set(layer, torch.from_numpy(layer.edges()), False)
        return plan

    def _set(self, layer: Any, edges: Tensor, blocks: bool) -> None:
        (self.rows, self.columns), self.edges, self.blocks, self.layer = self.shape, edges, blocks, layer
        self._chains: dict[tuple[int, ...], NativeChain] = {}
        if layer is not None:
            self._places, self._lasting = LayerPlaces(layer), None
            self.__dict__.pop("_positions", None)

    @property
    def positions(self) -> Int[Tensor, " kept"]:
        """`row · columns + column` of each surviving weight, in storage order: by block of columns, then by row, then
        by column. Listed when asked for.
        """
        if self.layer is None:
            return self._positions
        return self._places.listed()

    @property
    def kept(self) -> int:
        """How many weights survive."""
        return self._positions.numel() if self.layer is None else len(self.layer)

    def gather(self, dense: Float[Tensor, "rows columns"]) -> Float[Tensor, " kept"]:
        """Take the surviving weights out of a dense tensor."""
        if self.layer is None or not readable(dense):
            return super().gather(dense)
        values = floats(self.kept)
        self._places.take(dense, values)
        return values

    def scatter(self, values: Float[Tensor, " kept"]) -> Float[Tensor, "rows columns"]:
        """Put the surviving weights into a dense tensor of zeros. Differentiable."""
        if self.layer is None:
            return super().scatter(values)
        if readable(values):
            dense = values.new_zeros(self.shape)
            self._places.put(values, dense)
            return dense
        if self._lasting is None:  # a layer that is multiplied densely while it trains asks at every step
            self._lasting = self.positions
        flat = torch.zeros(self.shape.numel(), dtype=values.dtype, device=values.device)
        return flat.index_copy(0, self._lasting.to(values.device), values).view(self.shape)

    @property
    def index_bytes(self) -> int:
        """How many bytes say where the weights are once gradients were asked for, and some per row and column.

        16 for each weight: its column and row, and the same in transposed order; 2 in blocks of four.
        """
        cut = self.edges.numel() - 1
        if self.blocks:
            return 2 * self.kept + cut * self.rows + 8 * self.rows + 16 * self.columns
        return 16 * self.kept + 4 * cut * self.rows + 8 * self.rows + 12 * self.columns


def plan_layer(mask: Bool[Tensor, "rows columns"], *, blocks: bool = False) -> LayerPlan:
    """Compile a mask into a plan.

    Args:
        mask: what survives.
        blocks: use the kernels for blocks of four rows where the mask consists of whole ones.

    Raises:
        MaskError: a layer without rows or columns, or with 2³¹ or more surviving weights.

    >>> plan = plan_layer(torch.tensor([[True, False, True], [False, False, True]]))
    >>> plan.kept, plan.positions.tolist()
    (3, [0, 2, 5])
    """
    rows, columns = mask.shape
    if rows == 0 or columns == 0:
        raise MaskError(f"a sparse layer needs at least one row and one column, got {rows} × {columns}")
    mask = mask.cpu().contiguous()
    blocks = blocks and whole_blocks(mask)
    if door.native is not None and not blocks:
        return LayerPlan.of_layer(layer_of(mask))
    edges = _edges(mask)
    whole = rows - rows % BLOCK_ROWS if blocks else 0
    parts = []
    for first, last in pairwise(edges):
        if blocks:
            at = mask[:whole:BLOCK_ROWS, first:last].nonzero()
            top = at[:, :1] * (BLOCK_ROWS * columns) + at[:, 1:] + first
            parts.append((top + torch.arange(BLOCK_ROWS, device="cpu") * columns).flatten())
        else:
            at = mask[:, first:last].nonzero()
            parts.append(at[:, 0] * columns + at[:, 1] + first)
    if blocks:
        parts.append(mask[whole:].reshape(-1).nonzero()[:, 0] + whole * columns)
    return LayerPlan(rows, columns, torch.cat(parts), torch.tensor(edges, device="cpu"), blocks)


def layer_of(
    mask: Bool[Tensor, "rows columns"],
    rows: Bool[Tensor, " rows"] | None = None,
    columns: Bool[Tensor, " columns"] | None = None,
    counted: Bool[Tensor, " rows"] | None = None,
) -> Any:
    """Compile what a mask keeps in these rows and columns (None: all) into a native layer, in `plan_layer`'s order.

    Args:
        mask: on the CPU, contiguous.
        rows, columns: what is taken.
        counted: the rows whose weights count where the columns are cut into blocks; None: all.

    Raises:
        MaskError: 2³¹ or more surviving weights.
    """
    native: Any = door.native
    if mask.numel() >= 2**31:
        refuse_too_many(int(mask.count_nonzero()))
    flags = [
        torch.ones(size, dtype=torch.bool, device="cpu") if given is None else given
        for size, given in zip((*mask.shape, mask.shape[0]), (rows, columns, counted), strict=True)
    ]
    return native.SparseLayer(mask.numpy(), *[f.numpy() for f in flags], BLOCK_COLUMNS, torch.get_num_threads())


def whole_blocks(mask: Bool[Tensor, "rows columns"]) -> bool:
    """Tell whether a mask keeps whole blocks of four rows of one column; up to three rows at the end are free.

    >>> mask = torch.tensor([[True, False]] * 4 + [[False, True]])
    >>> whole_blocks(mask), whole_blocks(mask[1:])
    (True, False)
    """
    if door.native is not None and mask.is_cpu and mask.is_contiguous():
        return bool(door.native.whole_blocks(mask.numpy(), *[np.ones(size, dtype=bool) for size in mask.shape]))
    groups = mask.shape[0] // BLOCK_ROWS
    tall = mask[: groups * BLOCK_ROWS].reshape(groups, BLOCK_ROWS, mask.shape[1])
    return groups > 0 and bool(tall.any()) and bool((tall == tall[:, :1]).all())


def _edges(mask: Tensor) -> list[int]:
    """Cut the columns into blocks with at most BLOCK_COLUMNS columns alive, all about the same."""
    alive = mask.any(0).cumsum(0)
    total = int(alive[-1])
    blocks = max(1, -(-total // BLOCK_COLUMNS))
    targets = torch.tensor([total * b // blocks for b in range(1, blocks)], device="cpu")
    cuts = torch.searchsorted(alive, targets).add_(1).tolist() if blocks > 1 else []
    return [0, *cuts, mask.shape[1]]


@dataclass(frozen=True, eq=False)
class NativeChain:
    """The compiled chain of some plans.

    Attributes:
        native: the kernels' view of it.
        plans: behind the first one; alive with the chain, so that their ids stay theirs.
        paces: how many threads its calls take.
    """

    native: Any
    plans: tuple[LayerPlan, ...]
    paces: Paces


def native_chain(plans: tuple[LayerPlan, ...]) -> NativeChain:
    """Return the compiled chain of these plans, kept with the first of them for the next call."""
    key = tuple(id(plan) for plan in plans[1:])
    found = plans[0]._chains.get(key)
    if found is None:
        native = door.native
        assert native is not None, "the caller has looked"
        made = NativeChain(native.SparseChain([plan.layer for plan in plans]), plans[1:], Paces())
        found = remember(plans[0]._chains, key, made, most=_CHAINS)
    return found
