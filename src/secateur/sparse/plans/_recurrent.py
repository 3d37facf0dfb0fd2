"""From two masks to a plan: where the surviving weights of one direction of an LSTM or GRU layer are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur._base import door
from secateur._base.types import Bool, Float, Int

__all__ = ["RecurrentPlan", "plan_recurrent"]


class RecurrentPlan:
    """Where the surviving weights of one direction of one recurrent layer are. Immutable; copies share it.

    Attributes:
        gru: whether the layer is a GRU (3 gates) rather than an LSTM (4 gates).
        inputs: input features.
        units: h, the features of the state.
        input_positions: `row · inputs + column` of the surviving weights of W_ih, ascending.
        state_positions: `row · units + column` of the surviving weights of W_hh, ascending.
    """

    __slots__ = ("__weakref__", "_layer", "gru", "input_positions", "inputs", "state_positions", "units")

    def __init__(
        self, gru: bool, inputs: int, units: int, input_positions: Int[Tensor, " i"], state_positions: Int[Tensor, " s"]
    ) -> None:
        self.gru, self.inputs, self.units = gru, inputs, units
        self.input_positions, self.state_positions = input_positions, state_positions
        # The native layer checks every index once, here, and never again.
        native = door.native
        arrays = input_positions.numpy(), state_positions.numpy()
        self._layer = None if native is None else native.RecurrentLayer(gru, inputs, units, *arrays)

    @property
    def rows(self) -> int:
        """Rows of both weights: gates · units."""
        return (3 if self.gru else 4) * self.units

    @property
    def kept(self) -> int:
        """How many weights survive, in both matrices."""
        return self.input_positions.numel() + self.state_positions.numel()

    @property
    def index_bytes(self) -> int:
        """Bytes of what says where the weights are: 64-bit positions here, five 32-bit numbers in the kernels."""
        rows = 4 * self.units + self.inputs + self.units
        return self.kept * (8 + 5 * 4) + 4 * rows

    @property
    def layer(self) -> Any:
        """The compiled kernels' view of this plan, None without them."""
        return self._layer

    def gather(self, weight: Float[Tensor, "rows columns"], *, state: bool) -> Float[Tensor, " kept"]:
        """Take the surviving weights out of a dense W_ih, or W_hh if `state`."""
        return weight.reshape(-1)[self._positions(state).to(weight.device)]

    def scatter(self, values: Float[Tensor, " kept"], *, state: bool) -> Float[Tensor, "rows columns"]:
        """Put surviving weights into a dense matrix of zeros, W_ih or W_hh if `state`. Differentiable."""
        columns = self.units if state else self.inputs
        flat = torch.zeros(self.rows * columns, dtype=values.dtype, device=values.device)
        return flat.index_copy(0, self._positions(state).to(values.device), values).view(self.rows, columns)

    def _positions(self, state: bool) -> Tensor:
        return self.state_positions if state else self.input_positions

    def __copy__(self) -> RecurrentPlan:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> RecurrentPlan:
        return self

    def __reduce__(self) -> tuple[type[RecurrentPlan], tuple[bool, int, int, Tensor, Tensor]]:
        return RecurrentPlan, (self.gru, self.inputs, self.units, self.input_positions, self.state_positions)


def plan_recurrent(
    input_mask: Bool[Tensor, "rows inputs"], state_mask: Bool[Tensor, "rows units"], *, gru: bool
) -> RecurrentPlan:
    """Compile the masks of W_ih and W_hh, in the gate order of torch, into a plan.

    >>> plan = plan_recurrent(torch.eye(8, 3) > 0, torch.zeros(8, 2, dtype=torch.bool), gru=False)
    >>> plan.kept, plan.rows, plan.input_positions.tolist()
    (3, 8, [0, 4, 8])
    """
    places = (mask.cpu().reshape(-1).nonzero()[:, 0].contiguous() for mask in (input_mask, state_mask))
    return RecurrentPlan(gru, input_mask.shape[1], state_mask.shape[1], *places)
