"""Drop what cannot matter: the hidden units of a masked network whose output goes nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur._base import door
from secateur._base.types import Bool, Int
from secateur.sparse.plans._linear import BLOCK_COLUMNS, BLOCK_ROWS, LayerPlan, plan_layer
from secateur.sparse.programs._network import Kind, Operation, Program

__all__ = ["CompactLayer", "compact"]

#: Layers that keep more than this are left to the engine as single weights even if they consist of whole blocks: it
#: multiplies them as full matrices, which beats blocks from here on (measured with LeNet-300-100 on one core).
_BLOCKS_BELOW = 0.6


@dataclass(frozen=True, eq=False)
class CompactLayer:
    """A linear layer without idle units.

    Attributes:
        plan: of the units that matter.
        places: of each of the plan's weights, in its order, the flat index in the dense weight; then those of the
            surviving weights that lead to idle units: no gradient ever reaches them.
        rows: the dense row of each row of the plan, then the idle rows.
    """

    plan: LayerPlan
    places: Int[Tensor, " kept"]
    rows: Int[Tensor, " rows"]


def compact(program: Program, masks: Mapping[int, Tensor], *, full: bool) -> dict[int, CompactLayer]:
    """Walk from the output back: a unit between two linear layers matters if the second has a weight that reads it.

    Args:
        program: the network.
        masks: of its weights, by their id; a weight without one is kept whole.
        full: whether the engine multiplies layers that keep most of their weights as full matrices.

    Returns:
        The linear layers by the id of their weight.

    >>> from torch import nn
    >>> from secateur.sparse.programs._network import program_of
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> masks = {id(net[2].weight): torch.tensor([[True, False, True]])}
    >>> [layer.rows.tolist() for layer in compact(program_of(net), masks, full=False).values()]  # the last one first
    [[0], [0, 2, 1]]
    """
    linear = {o.output: o for o in program.operations if o.kind is Kind.LINEAR}
    matter: dict[int, Tensor] = {}  # the units of a value
    found: dict[int, CompactLayer] = {}
    for operation in reversed(linear.values()):
        mask = _mask_of(operation, masks)
        rows = matter.get(operation.output, _all(mask.shape[0]))
        columns = _all(mask.shape[1])
        below = linear.get(operation.inputs[0])
        if below is not None and _only_reader(program, operation.inputs[0]):
            columns = matter[below.output] = _read(mask, rows, _mask_of(below, masks))
        found[id(_weight(operation))] = _placed(mask, rows, columns, full)
    return found


def _weight(operation: Operation) -> Tensor:
    assert operation.module is not None, "a linear operation has its layer"
    return operation.module.get_parameter("weight")


def _mask_of(operation: Operation, masks: Mapping[int, Tensor]) -> Tensor:
    weight = _weight(operation)
    mask = masks.get(id(weight))
    return torch.ones(weight.shape, dtype=torch.bool, device="cpu") if mask is None else mask.cpu().contiguous()


def _all(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool, device="cpu")


def _only_reader(program: Program, value: int) -> bool:
    return value != program.output and sum(o.inputs.count(value) for o in program.operations) == 1


def _read(mask: Bool[Tensor, "rows columns"], rows: Bool[Tensor, " rows"], below: Tensor) -> Bool[Tensor, " columns"]:
    """Tell which columns these rows read, at least one; of rows of `below` that are blocks, whole blocks."""
    native: Any = door.native
    read = torch.from_numpy(native.used_columns(mask.numpy(), rows.numpy())).view(torch.bool)
    if not read.any():
        read[0] = True  # an empty layer: one unit stays, so that every layer has a row
    columns = _all(below.shape[1])
    if (
        _whole_blocks(below, _all(len(read)), columns)
        and not bool(below.all())
        and not _whole_blocks(below, read, columns)
    ):
        # Blocks cut into pieces cost more than idle units: a unit stays where another of its block does.
        groups = torch.nn.functional.pad(read, (0, -len(read) % BLOCK_ROWS)).reshape(-1, BLOCK_ROWS)
        read = groups.any(1).repeat_interleave(BLOCK_ROWS)[: len(read)]
    return read


def _whole_blocks(mask: Tensor, rows: Tensor, columns: Tensor) -> bool:
    native: Any = door.native
    return native.whole_blocks(mask.numpy(), rows.numpy(), columns.numpy())


def _placed(mask: Tensor, rows: Tensor, columns: Tensor, full: bool) -> CompactLayer:
    native: Any = door.native
    order = torch.cat([rows.nonzero()[:, 0], (~rows).nonzero()[:, 0]])
    parts = native.place_weights(mask.numpy(), rows.numpy(), columns.numpy(), BLOCK_COLUMNS)
    positions, edges, places = (torch.from_numpy(part) for part in parts)
    height, width = int(rows.sum()), int(columns.sum())
    dense = full and len(positions) >= _BLOCKS_BELOW * height * width
    if dense or not _whole_blocks(mask, rows, columns):
        return CompactLayer(LayerPlan(height, width, positions, edges), places, order)
    plan = plan_layer(mask[rows][:, columns], blocks=True)
    flat = order[:height, None] * mask.shape[1] + columns.nonzero()[:, 0]
    places = torch.cat([flat.reshape(-1)[plan.positions], places[plan.kept :]])
    return CompactLayer(plan, places, order)
