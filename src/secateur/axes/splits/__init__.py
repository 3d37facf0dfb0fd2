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

__all__ = ["Blocks", "Heads", "columns", "filters", "kernels", "lowered", "shapes", "stripes", "weights", "whole"]
