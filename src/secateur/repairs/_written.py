"""Survivors take values that were solved for when they were chosen: by a measure, or by the score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import Measure

__all__ = ["Known", "Solved"]


@dataclass(frozen=True)
class Solved:
    """Write what a measure found: the survivors' values were solved for together with which they are.

    Attributes:
        solution: the measure whose evidence are the weights.
        always: whether at every milestone.
    """

    solution: Measure
    always: bool = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The solution."""
        return (self.solution,)

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        for name in masks:
            moment.params[name].copy_(moment.evidence[self.solution.name][name].to(moment.params[name].dtype))


class Known:
    """Solutions that a score has made on its way, for a repair that would make the same again.

    A solution is known by the second moments that it is of, as a tensor in memory, and goes with them; it is handed out
    for the same rows and the same kept places only. Copies begin empty.
    """

    def __init__(self) -> None:
        self._held = WeakTensorKeyDictionary()

    def keep(self, rows: Tensor, moments: Tensor, kept: Tensor, solution: Tensor) -> None:
        """Remember the solution of rows on the places that are kept."""
        self._held[moments] = (rows, kept, solution)

    def find(self, rows: Tensor, moments: Tensor, keep: Tensor) -> Tensor | None:
        """The solution in the type of `rows`, if it is known; it is let go of."""
        found = self._held.pop(moments, None)
        if found is None:
            return None
        own, kept, solution = found
        same = own.shape == rows.shape and torch.equal(kept, keep) and torch.equal(own, rows.to(own.dtype))
        return solution.to(rows.dtype) if same else None

    def __reduce__(self) -> tuple[type[Known], tuple[()]]:
        return Known, ()
