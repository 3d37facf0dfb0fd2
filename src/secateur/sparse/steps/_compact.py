"""Drop what cannot matter: the hidden units of a masked chain whose output goes nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.types import Bool, Int
from secateur.sparse.plans._linear import BLOCK_ROWS, whole_blocks

__all__ = ["CompactLayer", "compact"]


@dataclass(frozen=True, eq=False)
class CompactLayer:
    """A layer of the chain without idle units.

    Attributes:
        mask: of the units that matter, [rows, columns].
        weights: for each entry of `mask`, row by row, its flat index in the dense weight.
        idle_weights: flat indices of surviving weights that lead to idle units: no gradient ever reaches them.
        rows: the dense row of each row of `mask`.
        idle_rows: the other dense rows.
    """

    mask: Bool[Tensor, "rows columns"]
    weights: Int[Tensor, "rows columns"]
    idle_weights: Int[Tensor, " idle"]
    rows: Int[Tensor, " rows"]
    idle_rows: Int[Tensor, " idle_rows"]


def compact(masks: Sequence[Bool[Tensor, "_ _"]]) -> list[CompactLayer]:
    """Walk from the output back: a hidden unit matters if a surviving weight leads from it to one that matters.

    Args:
        masks: of the layers in order, [rows, columns] each; the rows of one are the columns of the next.

    >>> first, last = torch.ones(3, 2, dtype=torch.bool), torch.tensor([[True, False, True]])
    >>> [tuple(layer.mask.shape) for layer in compact([first, last])]
    [(2, 2), (1, 2)]
    """
    found: list[CompactLayer] = []
    matters = torch.ones(masks[-1].shape[0], dtype=torch.bool, device="cpu")
    for i in reversed(range(len(masks))):
        mask = masks[i].cpu()
        below = mask[matters].any(0) if i else torch.ones(mask.shape[1], dtype=torch.bool, device="cpu")
        if not below.any():
            below[0] = True  # an empty layer: one unit stays, so that every layer has a row
        if i and _cuts_blocks(masks[i - 1].cpu(), below):
            below = _with_their_blocks(below)
        rows, columns = matters.nonzero()[:, 0], below.nonzero()[:, 0]
        flat = rows[:, None] * mask.shape[1] + columns
        idle = mask.clone()
        idle[matters] = False
        idle_weights = idle.reshape(-1).nonzero()[:, 0]
        found.append(CompactLayer(mask[rows][:, columns], flat, idle_weights, rows, (~matters).nonzero()[:, 0]))
        matters = below
    return found[::-1]


def _cuts_blocks(mask: Tensor, rows: Tensor) -> bool:
    return whole_blocks(mask) and not bool(mask.all()) and not whole_blocks(mask[rows])


def _with_their_blocks(matters: Tensor) -> Tensor:
    """Let a unit stay where another of its block does: blocks cut into pieces cost more than idle units."""
    rows = len(matters)
    groups = torch.nn.functional.pad(matters, (0, -rows % BLOCK_ROWS)).reshape(-1, BLOCK_ROWS)
    return groups.any(1).repeat_interleave(BLOCK_ROWS)[:rows]
