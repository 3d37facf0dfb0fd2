"""Survivors take the values that a measure has solved for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import Measure

__all__ = ["Solved"]


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
