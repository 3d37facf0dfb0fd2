"""Drop what cannot matter: the hidden units of a masked network whose output goes nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secateur._base import door
from secateur._base.types import Int
from secateur.sparse.plans import BLOCK_ROWS, LayerPlaces, LayerPlan, layer_of, plan_layer
from secateur.sparse.programs import Kind, Operation, Program

__all__ = ["CompactLayer", "compact"]

Flags = npt.NDArray[np.bool_]

#: Layers that keep more than this are left to the engine as single weights even if they consist of whole blocks: it
#: multiplies them as full matrices, which beats blocks from here on (measured with LeNet-300-100 on one core).
_BLOCKS_BELOW = 0.6


@dataclass(frozen=True, eq=False)
class CompactLayer:
    """A linear layer without idle units.

    Attributes:
        plan: of the units that matter.
        places: of each of the plan's weights, in its order, where it stands in the dense weight; then those of the
            surviving weights that lead to idle units: no gradient ever reaches them.
        rows: the dense row of each row of the plan, then the idle rows.
    """

    plan: LayerPlan
    places: LayerPlaces
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
    >>> from secateur.sparse.programs import program_of
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> masks = {id(net[2].weight): torch.tensor([[True, False, True]])}
    >>> [layer.rows.tolist() for layer in compact(program_of(net), masks, full=False).values()]  # the last one first
    [[0], [0, 2, 1]]
    """
    linear = {o.output: o for o in program.operations if o.kind is Kind.LINEAR}
    kept = {value: _mask_of(operation, masks) for value, operation in linear.items()}
    matter: dict[int, Flags] = {}  # the units of a value
    found: dict[int, CompactLayer] = {}
    for value, operation in reversed(linear.items()):
        mask, source = kept[value], operation.inputs[0]
        rows = matter.get(value, np.ones(mask.shape[0], dtype=bool))
        columns = np.ones(mask.shape[1], dtype=bool)
        if source in linear and _only_reader(program, source):
            columns = matter[source] = _read(mask, rows, kept[source])
        found[id(_weight(operation))] = _placed(mask, rows, columns, full)
    return found


def _weight(operation: Operation) -> Tensor:
    assert operation.module is not None, "a linear operation has its layer"
    return operation.module.get_parameter("weight")


def _mask_of(operation: Operation, masks: Mapping[int, Tensor]) -> Flags:
    weight = _weight(operation)
    mask = masks.get(id(weight))
    return np.ones(weight.shape, dtype=bool) if mask is None else mask.cpu().contiguous().numpy()


def _only_reader(program: Program, value: int) -> bool:
    return value != program.output and sum(o.inputs.count(value) for o in program.operations) == 1


def _read(mask: Flags, rows: Flags, below: Flags) -> Flags:
    """Tell which columns these rows read, at least one; of rows of `below` that are blocks, whole blocks."""
    native: Any = door.native
    read = native.used_columns(mask, rows).view(bool)
    if not read.any():
        read[0] = True  # an empty layer: one unit stays, so that every layer has a row
    every, columns = np.ones(len(read), dtype=bool), np.ones(below.shape[1], dtype=bool)
    if native.whole_blocks(below, every, columns) and not below.all() and not native.whole_blocks(below, read, columns):
        # Blocks cut into pieces cost more than idle units: a unit stays where another of its block does.
        groups = np.pad(read, (0, -len(read) % BLOCK_ROWS)).reshape(-1, BLOCK_ROWS)
        read = groups.any(1).repeat(BLOCK_ROWS)[: len(read)]
    return read


def _placed(mask: Flags, rows: Flags, columns: Flags, full: bool) -> CompactLayer:
    native: Any = door.native
    kept, taken, read = torch.from_numpy(mask), torch.from_numpy(rows), torch.from_numpy(columns)
    order = torch.cat([taken.nonzero()[:, 0], (~taken).nonzero()[:, 0]])
    # Networks without full matrices cut their columns as they did when they had idle units: the sums keep their order.
    plan = LayerPlan.of_layer(layer_of(kept, taken, read, taken if full else None))
    dense = full and plan.kept >= _BLOCKS_BELOW * plan.rows * plan.columns
    if not dense and native.whole_blocks(mask, rows, columns):
        plan = plan_layer(kept[taken][:, read], blocks=True)
    return CompactLayer(plan, LayerPlaces(plan.layer, kept, taken, read), order)
