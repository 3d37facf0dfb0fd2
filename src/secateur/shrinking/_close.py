"""From masks of weights to whole units: what must be zero besides, so that a unit can go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateur.coupling import Coupling, Entry
from secateur.masks import Masks

__all__ = ["Closing", "closed", "dead_in", "masks_of"]


@dataclass(frozen=True)
class Closing:
    """What closing masks to whole units did.

    Attributes:
        units: how many classes were found dead in the masks.
        entries: how many entries of parameters were cut besides: shifts, biases, columns of what reads a unit.
        change: how much that changes the outputs on the example, relative to the largest; 0 where nothing was cut.
    """

    units: int
    entries: int
    change: float

    def __str__(self) -> str:
        return f"{self.units:,} units closed, {self.entries:,} entries besides; outputs changed by {self.change:.1e}"


def dead_in(masks: Masks, coupling: Coupling) -> np.ndarray:
    """Return which classes the masks leave nothing of, one bool per class.

    A class is dead where every masked tensor that makes it has nothing but zeros in its rows, or every masked tensor
    that reads it in its columns. Where no mask speaks of a maker (a shift of batch norm), it has no say.
    """
    verdicts = [_Verdict(coupling.count), _Verdict(coupling.count)]
    for entry in coupling.entries:
        mask = next((masks[name] for name in entry.names if name in masks), None)
        if mask is None or mask.dim() < 2:
            continue
        verdicts[entry.reads].hear(entry, _alive(mask, entry.dim))
    return (verdicts[0].dead | verdicts[1].dead) & ~coupling.stays


class _Verdict:
    """Whether all that were heard say that a class is dead, and anybody was."""

    def __init__(self, count: int) -> None:
        self._heard, self._alive = np.zeros(count, bool), np.zeros(count, bool)

    def hear(self, entry: Entry, alive: np.ndarray) -> None:
        self._heard[entry.ids] = True
        self._alive[entry.ids[alive]] = True

    @property
    def dead(self) -> np.ndarray:
        return self._heard & ~self._alive


def _alive(mask: Tensor, dim: int) -> np.ndarray:
    return mask.movedim(dim, 0).flatten(1).any(1).cpu().numpy()


def masks_of(model: nn.Module, coupling: Coupling, gone: np.ndarray, also: Masks | None = None) -> Masks:
    """Return masks of every parameter that loses entries when these classes go.

    Args:
        model: the model, for shapes and devices.
        coupling: what is tied to what.
        gone: one bool per class.
        also: masks whose zeros are zeros here as well.
    """
    parameters = dict(model.named_parameters())
    found = {name: mask.clone() for name, mask in also.items()} if also is not None else {}
    for entry in coupling.entries:
        name = next((each for each in entry.names if each in parameters), None)
        lost = np.flatnonzero(gone[entry.ids])
        if name is None or not len(lost):
            continue
        known = next((each for each in entry.names if each in found), name)
        parameter = parameters[name]
        mask = found.setdefault(known, torch.ones(parameter.shape, dtype=torch.bool, device=parameter.device))
        mask.index_fill_(entry.dim, torch.from_numpy(lost).to(mask.device), False)
    if not found:
        found = {name: torch.ones_like(p, dtype=torch.bool) for name, p in list(parameters.items())[:1]}
    return Masks(found, copy=False)


def closed(masks: Masks, coupling: Coupling, model: nn.Module) -> Masks:
    """Close masks to whole units: where they leave nothing of a unit, its shift, its bias and its columns go as well.

    This may change the function: a unit with no weights left still gives out its bias, and behind batch norm its shift.
    `shrink` measures by how much.

    Args:
        masks: of weights alone, most often.
        coupling: as `coupling.trace` found it.
        model: the model.
    """
    masks.check(model)
    return masks_of(model, coupling, dead_in(masks, coupling), masks)
