"""What a Pruner remembers of its milestones: which weights have lived, and what a regrowth keeps for the next time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.masks import Masks
from secateur.measures import Params


class Past:
    """The union of all masks so far, and a regrowth's memory: tensors and numbers by name."""

    def __init__(self) -> None:
        self.memory: dict[str, float | Tensor] = {}
        self._explored: Masks | None = None

    @property
    def exploration(self) -> float:
        """The fraction of the weights that has been alive at some step."""
        if self._explored is None:
            raise SecateurError("nothing has been held yet: there is no exploration to speak of.")
        return self._explored.density

    def saw(self, masks: Masks) -> None:
        """Count the weights of these masks among those that have lived."""
        self._explored = masks if self._explored is None else self._explored | masks

    def state_dict(self, masks: Masks) -> dict[str, Any]:
        """What a checkpoint needs besides the present masks."""
        state: dict[str, Any] = {}
        if self._explored is not None and self._explored != masks:
            state["explored"] = dict(self._explored)
        if self.memory:
            state["memory"] = {name: _copy(value) for name, value in self.memory.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], params: Params) -> None:
        """Go on from a Pruner's state; its tensors go to the device of the parameters."""
        self._explored = Masks(state.get("explored", state["masks"]))
        device = next(iter(params.values())).device
        self.memory.clear()
        for name, value in state.get("memory", {}).items():
            self.memory[name] = value.to(device) if isinstance(value, Tensor) else float(value)


def _copy(value: float | Tensor) -> float | Tensor:
    return value.clone() if isinstance(value, Tensor) else value
