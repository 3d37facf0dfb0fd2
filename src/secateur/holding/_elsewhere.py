"""What a hold and whoever trains its weights tell one another: which gradients are wanted, and that a step was taken.

Held weights are not always stepped by the optimizer's own `step`: a compiled step trains a copy of them, a sparsified
model their surviving values. Those keep the zeros by themselves; the hold counts their steps and says what comes next.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from secateur.holding._slot import Slot
from secateur.holding._steps import skipped
from secateur.masks import Masks


class Elsewhere:
    """The part of a `Hold` that does not depend on who takes the steps.

    Attributes:
        refuses: why the held weights must be trained as they are, by an optimizer's own step; None: they need not be.
    """

    refuses: str | None = None
    _masks: Masks
    _slots: list[Slot]
    _on_step: Callable[[int], None] | None
    _steps: int
    _round: weakref.WeakSet[Optimizer]
    _optimizers: weakref.WeakSet[Optimizer]

    def ask(self, dense_gradients: bool) -> None:
        """Say whether the coming step's gradients are wanted as they are before the masks cut them; drop the last."""
        for slot in self._slots:
            slot.asked = dense_gradients
            slot.forget()

    @property
    def asks(self) -> bool:
        """Whether the coming step's dense gradients are wanted."""
        return any([slot.asked for slot in self._slots])

    def gradients(self) -> dict[str, Tensor]:
        """Return the dense gradients of the present step by name, where they were asked for and backward came by.

        They are what backward left, before clipping and before a GradScaler divides its scale out.
        """
        return {slot.name: slot.seen for slot in self._slots if slot.seen is not None}

    @property
    def changes(self) -> bool:
        """Whether somebody is called at each step, who may change the masks."""
        return self._on_step is not None

    def stepped(
        self, optimizer: Optimizer, parameters: int | None = None, *, gradients: Mapping[int, Tensor] | None = None
    ) -> None:
        """Count a step that has moved so many of the held parameters (None: all), and left their zeros zero.

        `gradients` are the dense ones that were asked for, by the id of the parameter.
        """
        for slot in self._slots if gradients else ():
            slot.seen = gradients.get(id(slot.parameter())) if gradients and slot.asked else slot.seen
        moved = len(self._slots) if parameters is None else parameters
        if moved:
            self._optimizers.add(optimizer)
        if self._on_step is not None and self._opens_round(moved, optimizer):
            self._round = weakref.WeakSet([optimizer])
            self._steps += 1
            self._on_step(self._steps)
        elif moved:
            self._round.add(optimizer)  # its partner opened this round

    def _opens_round(self, moved: int, optimizer: Optimizer) -> bool:
        """Whether this step counts: optimizers that share the held parameters make one round together."""
        shares = moved < len(self._slots)
        partner = shares and self._steps > 0 and optimizer not in self._round
        return moved > 0 and not partner and not skipped(optimizer)

    def by_parameter(self) -> dict[int, tuple[str, Tensor]]:
        """Return name and mask of each held parameter by its id, as the model has it now."""
        found: list[tuple[Any, Slot]] = [(slot.parameter(), slot) for slot in self._slots]
        return {id(p): (slot.name, self._masks[slot.name]) for p, slot in found if p is not None}
