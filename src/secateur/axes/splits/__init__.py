"""How tensors are laid out as units and their entries: what structures are made of."""

from __future__ import annotations

from secateur.axes.splits._split import (
    Blocks,
    Heads,
    columns,
    filters,
    kernels,
    lowered,
    shapes,
    stripes,
    weights,
    whole,
)
from secateur.axes.splits._tied import (
    ALSO,
    block_tensors,
    pooled_blocks,
    rows_made,
    shared_blocks,
    unit_pools,
)

__all__ = [
    "ALSO",
    "Blocks",
    "Heads",
    "block_tensors",
    "columns",
    "filters",
    "kernels",
    "lowered",
    "pooled_blocks",
    "rows_made",
    "shapes",
    "shared_blocks",
    "stripes",
    "unit_pools",
    "weights",
    "whole",
]
