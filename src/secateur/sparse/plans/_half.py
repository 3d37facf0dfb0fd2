"""Where a layer's weights are, for products in bfloat16: a bitmask of 32 × 32 blocks, or blocks of 64 outputs × 2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur._base import door
from secateur._base.types import Float
from secateur.sparse.plans._linear import LayerPlan, plan_layer, whole_blocks

#: Outputs and inputs of a block for which the kernels load a pair of inputs once.
PAIRED = (64, 2)


class HalfPlan:
    """The compiled view of a plan that multiplies in bfloat16.

    Single weights are a bitmask: one bit for each weight that the dense layer has, and some bytes for each row of 32 of
    them. Of blocks of 64 outputs × 2 inputs, the view is a list of pairs of inputs for each 64 outputs.

    Attributes:
        layer: the kernels' object, which wants values sorted by block of columns, row and column; of blocks, as the
            plan has them.
        order: the place of each of those values in the plan's own order; None where that is the same.
    """

    def __init__(self, plan: LayerPlan, layer: Any = None, order: Tensor | None = None) -> None:
        native: Any = door.native
        positions, self.order = plan.positions, order
        if plan.blocks and layer is None:  # stored four rows at a time
            rows, columns = positions // plan.columns, positions % plan.columns
            block = torch.searchsorted(plan.edges, columns, right=True)
            self.order = ((block * plan.rows + rows) * plan.columns + columns).argsort()
            positions = positions[self.order]
        if layer is None:
            layer = native.HalfLayer(plan.rows, plan.columns, positions.numpy(), plan.edges.numpy())
        self.layer: Any = layer

    def sorted(self, values: Float[Tensor, " kept"]) -> Float[Tensor, " kept"]:
        """Return the values as float32, in the order of the kernels and in a row."""
        plain = values.detach().float()
        return plain.contiguous() if self.order is None else plain.index_select(0, self.order)

    def unsorted(self, found: Float[Tensor, " kept"]) -> Float[Tensor, " kept"]:
        """Return what the kernels made, one for each value, in the plan's order."""
        return found if self.order is None else torch.empty_like(found).index_copy_(0, self.order, found)


def half_of(plan: LayerPlan, *, blocks: bool | None = None) -> HalfPlan:
    """Return the view of a plan for bfloat16, kept with it for the next call.

    Args:
        plan: where the weights are.
        blocks: which view of weights that are whole blocks of 64 outputs × 2 inputs: that of blocks, where the
            instructions in use multiply them, or the bitmask; None: that in whose order the plan has them.
    """
    native: Any = door.native
    wanted = plan.blocks if blocks is None else blocks
    paired: HalfPlan | None = paired_of(plan) if wanted and native.half_has_pairs() else None
    if paired is not None:
        return paired
    found: HalfPlan | None = plan.__dict__.get("_half")
    if found is None:
        found = plan.__dict__["_half"] = HalfPlan(plan)
    return found


def paired_of(plan: LayerPlan) -> HalfPlan | None:
    """Return the view of a plan whose weights are whole blocks of 64 outputs × 2 inputs; None of others.

    Blocks at the edges are smaller, as `axes.structure.blocks(64, 2)` cuts them.
    """
    if "_paired" not in plan.__dict__:
        plan.__dict__["_paired"] = None if door.native is None or not plan.kept else _paired(plan)
    return plan.__dict__["_paired"]


def _paired(plan: LayerPlan) -> HalfPlan | None:
    native: Any = door.native
    stored, order = plan, None
    if not plan.blocks:  # stored row by row: the values go into the order of blocks when they are rounded
        mask = plan.mask()
        if not whole_blocks(mask):
            return None
        place = torch.empty(plan.shape.numel(), dtype=torch.int64, device="cpu")
        place[plan.positions] = torch.arange(plan.kept, device="cpu")
        stored = plan_layer(mask, blocks=True)
        order = place[stored.positions]
    made = native.paired_layer(plan.rows, plan.columns, stored.positions.numpy(), stored.edges.numpy())
    return None if made is None else HalfPlan(plan, made, order)
