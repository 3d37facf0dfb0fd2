"""Drop the units of a masked recurrent classifier whose output goes nowhere, and find every weight its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.types import Bool, Int
from secateur.sparse.plans import LayerPlan, plan_layer, plan_recurrent
from secateur.sparse.programs import RecurrentProgram
from secateur.sparse.steps._slices import Slice, make_slice

__all__ = ["Constant", "Placed", "live_units", "place"]


@dataclass(frozen=True, eq=False)
class Constant:
    """A bias that is not trained: the rows of a module's buffer that matter, and where they stand in the step."""

    module: nn.Module
    name: str
    rows: Int[Tensor, " rows"]
    places: Int[Tensor, " rows"]


@dataclass(frozen=True, eq=False)
class Placed:
    """The native step without idle units, and for each parameter its slice and the places of its active values."""

    engine: Any
    slices: tuple[tuple[Slice, Int[Tensor, " _"]], ...]
    constants: tuple[Constant, ...]


def live_units(
    state_mask: Bool[Tensor, "rows units"], head_mask: Bool[Tensor, "classes units"]
) -> Bool[Tensor, " units"]:
    """Tell which units matter: those that feed the head, or through surviving weights a unit that matters.

    >>> chain = torch.zeros(6, 2, dtype=torch.bool)  # a GRU of two units: the second feeds the first …
    >>> chain[0, 1] = True
    >>> live_units(chain, torch.tensor([[True, False]])).tolist()  # … which feeds the head
    [True, True]
    >>> live_units(chain, torch.tensor([[False, True]])).tolist()
    [False, True]
    """
    units = state_mask.shape[1]
    feeds = state_mask.view(-1, units, units).any(0)  # feeds[u, j]: unit j leads to unit u
    alive = head_mask.any(0)
    while True:
        more = alive | feeds[alive].any(0)
        if torch.equal(more, alive):
            break
        alive = more
    if not alive.any():
        alive[0] = True  # so that every layer has a row
    return alive


def place(program: RecurrentProgram, masks: dict[int, Tensor], slots: int) -> Placed:
    """Plan the layers of a recurrent classifier without idle units.

    Args:
        program: the classifier.
        masks: of its parameters, by their id; a parameter without one is kept whole.
        slots: tensors of optimizer state for each parameter.
    """

    def kept(parameter: Tensor) -> Tensor:
        found = masks.get(id(parameter))
        return torch.ones(parameter.shape, dtype=torch.bool) if found is None else found.cpu()

    cell: Any = program.cell
    head, project = program.head, program.project
    w_in, w_state = kept(cell.weight_ih_l0), kept(cell.weight_hh_l0)
    gates, units = cell.weight_hh_l0.shape[0] // cell.hidden_size, cell.hidden_size
    alive = live_units(w_state, kept(head.weight))
    rows = (torch.arange(gates)[:, None] * units + alive.nonzero()[:, 0]).reshape(-1)
    inputs = torch.ones(cell.input_size, dtype=torch.bool)
    if project is not None:
        inputs = w_in[rows].any(0)
        inputs[0] |= not bool(inputs.any())
    plan = plan_recurrent(w_in[rows][:, inputs], w_state[rows][:, alive], gru=isinstance(cell, nn.GRU))
    head_plan = plan_layer(kept(head.weight)[:, alive])
    project_plan = None if project is None else plan_layer(kept(project.weight)[inputs])
    native: Any = door.native
    layer, maker = plan.layer, _Maker(slots)
    engine = native.RecurrentStep(layer, None if project_plan is None else project_plan.layer, head_plan.layer)
    first = engine.first
    maker.weight(cell.weight_ih_l0, kept, rows, inputs, plan.input_positions, torch.tensor(layer.input_places()))
    maker.weight(cell.weight_hh_l0, kept, rows, alive, plan.state_positions, torch.tensor(layer.state_places()))
    for state, name in enumerate(("bias_ih_l0", "bias_hh_l0") if cell.bias else ()):
        places = torch.tensor([layer.bias_place(bool(state), row) for row in range(len(rows))])
        maker.bias(cell, name, kept, rows, places)
    if project is not None and project_plan is not None:
        maker.linear(project, kept, inputs, torch.ones(project.in_features).bool(), project_plan, (first(0), first(1)))
    maker.linear(head, kept, torch.ones(head.out_features).bool(), alive, head_plan, (first(2), first(3)))
    return Placed(engine, tuple(maker.slices), tuple(maker.constants))


class _Maker:
    """Collects the slices of a classifier's parameters."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.slices: list[tuple[Slice, Tensor]] = []
        self.constants: list[Constant] = []

    def weight(
        self, weight: Tensor, kept: Any, rows: Tensor, columns: Tensor, positions: Tensor, places: Tensor
    ) -> None:
        """Add a matrix of which only these rows (indices) and columns (mask) matter.

        `positions` are those of the plan, within what matters, and `places` where the step keeps them.
        """
        flat = (rows[:, None] * weight.shape[1] + columns.nonzero()[:, 0]).reshape(-1)
        active = flat[positions]
        idle = kept(weight).clone()
        idle.view(-1)[active] = False
        self._add(weight, active, idle, places)

    def bias(self, module: nn.Module, name: str, kept: Any, rows: Tensor, places: Tensor) -> None:
        """Add a module's vector of which only these rows matter; a buffer is a constant."""
        bias = getattr(module, name)
        if not isinstance(bias, nn.Parameter):
            self.constants.append(Constant(module, name, rows, places))
            return
        mask = kept(bias)
        keep = mask[rows]
        idle = mask.clone()
        idle[rows] = False
        self._add(bias, rows[keep], idle, places[keep])

    def linear(
        self, layer: nn.Linear, kept: Any, rows: Tensor, columns: Tensor, plan: LayerPlan, first: tuple[int, int]
    ) -> None:
        """Add a linear layer of which only these rows and columns (masks) matter; its numbers begin at `first`."""
        places = rows.nonzero()[:, 0]
        self.weight(layer.weight, kept, places, columns, plan.positions, first[0] + torch.arange(plan.kept))
        if layer.bias is not None:
            self.bias(layer, "bias", kept, places, first[1] + torch.arange(len(places)))

    def _add(self, parameter: Tensor, active: Tensor, idle: Tensor, places: Tensor) -> None:
        everywhere = torch.cat([active, idle.reshape(-1).nonzero()[:, 0]])
        piece = make_slice(parameter, everywhere, len(active), self.slots)
        self.slices.append((piece, places.to(torch.int32).contiguous()))
