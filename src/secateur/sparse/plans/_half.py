"""Where a layer's weights are, for products in bfloat16: a bitmask of 32 × 32 blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur._base import door
from secateur._base.types import Float
from secateur.sparse.plans._linear import LayerPlan


class HalfPlan:
    """The compiled view of a plan that multiplies in bfloat16: one bit for each weight that the dense layer has, and
    some bytes for each row of 32 of them.

    Attributes:
        layer: the kernels' object, which wants values sorted by block of columns, row and column.
        order: the place of each of those values in the plan's own order; None where that is the same.
    """

    def __init__(self, plan: LayerPlan) -> None:
        native: Any = door.native
        positions, self.order = plan.positions, None
        if plan.blocks:  # stored four rows at a time
            rows, columns = positions // plan.columns, positions % plan.columns
            block = torch.searchsorted(plan.edges, columns, right=True)
            self.order = ((block * plan.rows + rows) * plan.columns + columns).argsort()
            positions = positions[self.order]
        self.layer: Any = native.HalfLayer(plan.rows, plan.columns, positions.numpy(), plan.edges.numpy())
        self.kept = plan.kept

    def sorted(self, values: Float[Tensor, " kept"]) -> Float[Tensor, " kept"]:
        """Return the values as float32, in the order of the kernels and in a row."""
        plain = values.detach().float()
        return plain.contiguous() if self.order is None else plain[self.order]

    def unsorted(self, found: Float[Tensor, " kept"]) -> Float[Tensor, " kept"]:
        """Return what the kernels made, one for each value, in the plan's order."""
        return found if self.order is None else torch.empty_like(found).index_copy_(0, self.order, found)


def half_of(plan: LayerPlan) -> HalfPlan:
    """Return the view of a plan for bfloat16, kept with it for the next call."""
    found: HalfPlan | None = plan.__dict__.get("_half")
    if found is None:
        found = plan.__dict__["_half"] = HalfPlan(plan)
    return found
