"""What a unit is worth: the sum over the weights that make it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from secateur.coupling import Coupling, Ids, worth_of

__all__ = ["UnitScore", "l1", "unit_scores"]

#: What one weight is worth to the units that it makes: (name, parameter) → scores of its shape.
UnitScore = Callable[[str, Tensor], Tensor]


def l1(name: str, weight: Tensor) -> Tensor:
    """Score a weight by its magnitude, so that a unit is worth the L1 norm of the filters that make it."""
    return weight.abs()


def unit_scores(model: nn.Module, coupling: Coupling, score: UnitScore) -> np.ndarray:
    """Return what each class is worth: the sum of the scores of all weights that make it, one float64 per class.

    A weight of two or more dimensions makes the units of its outputs: the rows of a filter. Biases, shifts and the
    columns of what reads a unit have no say. A factor of a product is worth what its entries are: a head, the sum
    over its places. Where no weight makes a class (a shift alone), whatever makes it counts.

    Args:
        model: the model.
        coupling: what is tied to what.
        score: what one weight is worth.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    rows: tuple[list[tuple[Ids, np.ndarray]], ...] = ([], [])
    known: dict[int, Tensor] = {}
    for entry in coupling.entries:
        parameter = parameters.get(entry.names[0])
        if parameter is None or entry.reads:
            continue
        if id(parameter) not in known:
            with torch.no_grad():
                known[id(parameter)] = score(entry.names[0], parameter.detach())
        each = known[id(parameter)].movedim(entry.dim, 0).reshape(len(entry.ids), -1).sum(1, dtype=torch.float64)
        rows[parameter.dim() > 1].append((entry.ids, each.cpu().numpy()))
    rest, makes = (worth_of(coupling, each) for each in rows)
    made = worth_of(coupling, [(ids, np.ones(len(ids))) for ids, _ in rows[True]])
    return np.where(made > 0, makes, rest)
