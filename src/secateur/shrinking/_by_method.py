"""From a method that ranks filters to masks of whole units: the same method, its units those that are tied."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from secateur._base.errors import SecateurError
from secateur.axes import Method
from secateur.axes.structure import Channels, channels
from secateur.coupling import Coupling
from secateur.masks import Masks, Only
from secateur.measures import Batch, Loss
from secateur.pruning import prune


def masks_by(
    model: nn.Module,
    method: Method,
    coupling: Coupling,
    batches: Iterable[Batch] | None,
    loss: Loss | None,
    only: Only,
) -> Masks:
    """Let a method choose among whole units, on a copy of the model.

    Raises:
        SecateurError: its structure is not filters; it acts in training only; it lacks its batches.
    """
    if not (isinstance(method.structure, Channels) or method.structure.name == "filters"):
        raise SecateurError(
            f"`what`: {method.name} cuts {method.structure.name}, and shrink takes methods that cut filters, which "
            "it ties to whole units. Take its masks instead: shrink(model, prune(model, method, …), example_inputs)."
        )
    tied = method
    if not isinstance(method.structure, Channels):
        tied = replace(method, structure=channels(coupling, reduce=method.structure.reduce))
    return prune(copy.deepcopy(model), tied, batches, loss=loss, only=only)
