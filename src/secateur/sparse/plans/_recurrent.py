"""From two masks to a plan: where the surviving weights of one direction of an LSTM or GRU layer are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from secateur._base import door
from secateur._base.types import Bool, Int
from secateur.sparse.plans._survivors import Shared, Survivors, places_of


class RecurrentPlan(Shared):
    """Where the surviving weights of one direction of one recurrent layer are. Immutable; copies share it.

    Attributes:
        gru: whether the layer is a GRU (3 gates) rather than an LSTM (4 gates).
        inputs: input features.
        units: h, the features of the state.
        input_positions: `row · inputs + column` of the surviving weights of W_ih, ascending.
        state_positions: `row · units + column` of the surviving weights of W_hh, ascending.
        rows: of both weights: gates · units.
        parts: the survivors of W_ih and of W_hh.
        layer: the compiled kernels' view of this plan, None without them.
    """

    made_of = ("gru", "inputs", "units", "input_positions", "state_positions")

    def __init__(
        self, gru: bool, inputs: int, units: int, input_positions: Int[Tensor, " i"], state_positions: Int[Tensor, " s"]
    ) -> None:
        self.gru, self.inputs, self.units, self.rows = gru, inputs, units, (3 if gru else 4) * units
        self.input_positions, self.state_positions = input_positions, state_positions
        self.parts = Survivors((self.rows, inputs), input_positions), Survivors((self.rows, units), state_positions)
        # The native layer checks every index once, here, and never again.
        native, places = door.native, (input_positions.numpy(), state_positions.numpy())
        self.layer: Any = None if native is None else native.RecurrentLayer(gru, inputs, units, *places)

    @property
    def kept(self) -> int:
        """How many weights survive, in both matrices."""
        return sum(part.kept for part in self.parts)

    @property
    def index_bytes(self) -> int:
        """Bytes of what says where the weights are: 64-bit positions here, five 32-bit numbers in the kernels."""
        rows = 4 * self.units + self.inputs + self.units
        return self.kept * (8 + 5 * 4) + 4 * rows


def plan_recurrent(
    input_mask: Bool[Tensor, "rows inputs"], state_mask: Bool[Tensor, "rows units"], *, gru: bool
) -> RecurrentPlan:
    """Compile the masks of W_ih and W_hh, in the gate order of torch, into a plan.

    >>> import torch
    >>> plan = plan_recurrent(torch.eye(8, 3) > 0, torch.zeros(8, 2, dtype=torch.bool), gru=False)
    >>> plan.kept, plan.rows, plan.input_positions.tolist()
    (3, 8, [0, 4, 8])
    """
    places = places_of(input_mask), places_of(state_mask)
    return RecurrentPlan(gru, input_mask.shape[1], state_mask.shape[1], *places)
