"""From a mask to a plan: where a layer's surviving weights are, in the order in which the kernels want them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from secateur._base import door
from secateur._base.errors import MaskError
from secateur._base.recent import remember
from secateur._base.types import Bool, Int
from secateur.sparse.plans._survivors import Survivors

# The weight gradient reads whole columns of activations: 1408 of them, 128 samples each, fill 700 KB of the
# second-level cache. A constant, so that stored values mean the same on every machine.
BLOCK_COLUMNS = 1408

# Chains that begin with one plan: a layer may change its neighbours any number of times.
_CHAINS = 8

# Outputs of one block, for which the kernels load an activation once.
BLOCK_ROWS = 4


class LayerPlan(Survivors):
    """Where the surviving weights of one linear layer are. Immutable; copies share it.

    Attributes:
        rows: output features.
        columns: input features.
        positions: `row · columns + column` of each surviving weight, in storage order: by block of columns,
            then by row, then by column.
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
        self.rows, self.columns, self.edges, self.blocks = rows, columns, edges, blocks
        # The native layer checks every index once, here, and never again.
        native, places = door.native, (positions.numpy(), edges.numpy())
        self.layer: Any = None if native is None else native.SparseLayer(rows, columns, *places, blocks)
        self._chains: dict[tuple[int, ...], tuple[Any, tuple[LayerPlan, ...]]] = {}

    @property
    def index_bytes(self) -> int:
        """How many bytes say where the weights are: 24 for each, 2 in blocks of four; and some per row and column."""
        cut = self.edges.numel() - 1
        if self.blocks:
            return 2 * self.kept + cut * self.rows + 8 * self.rows + 16 * self.columns
        return 24 * self.kept + 4 * cut * self.rows + 8 * self.rows + 12 * self.columns


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
    mask = mask.cpu()
    edges = _edges(mask)
    blocks = blocks and whole_blocks(mask)
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


def whole_blocks(mask: Bool[Tensor, "rows columns"]) -> bool:
    """Tell whether a mask keeps whole blocks of four rows of one column; up to three rows at the end are free.

    >>> mask = torch.tensor([[True, False]] * 4 + [[False, True]])
    >>> whole_blocks(mask), whole_blocks(mask[1:])
    (True, False)
    """
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


def native_chain(plans: tuple[LayerPlan, ...]) -> Any:
    """Return the compiled chain of these plans, kept with the first of them for the next call."""
    key = tuple(id(plan) for plan in plans[1:])
    found = plans[0]._chains.get(key)
    if found is None:
        native = door.native
        assert native is not None, "the caller has looked"
        # The plans stay alive with the chain, so that their ids stay theirs.
        made = native.SparseChain([plan.layer for plan in plans]), plans[1:]
        found = remember(plans[0]._chains, key, made, most=_CHAINS)
    return found[0]
