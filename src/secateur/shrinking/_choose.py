"""From a density to the units that go: whole units by a score, as many of each group."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, nearest
from secateur.costing import Call, count
from secateur.coupling import Coupling, Ids, on_meta, spread, worth_of
from secateur.selection import check_density, kept_count, topk_mask
from secateur.shrinking._cut import Plan, cut_
from secateur.shrinking._plan import plan

__all__ = ["BUDGETS", "UnitScore", "choose", "l1", "unit_scores", "wish_of"]

#: What one weight is worth to the units that it makes: (name, parameter) → scores of its shape.
UnitScore = Callable[[str, Tensor], Tensor]

BUDGETS = ("units", "params", "macs", "bytes")
_HALVINGS = 14


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


def wish_of(coupling: Coupling, worth: np.ndarray, density: float) -> np.ndarray:
    """Return the classes that go when every group keeps the same share of its units, the worthiest."""
    gone = np.zeros(coupling.count, bool)
    for group in coupling.groups:
        left = group.units[~gone[group.units]]  # some may have gone with units of a group before
        keep = max(1, kept_count(density, len(group.units)))
        if keep >= len(left):
            continue
        chosen = topk_mask({group.name: torch.from_numpy(worth[left])}, keep)[group.name].numpy()
        seeds = np.zeros(coupling.count, bool)
        seeds[left[~chosen]] = True
        gone = spread(coupling, seeds, gone)
    return gone | _followers(coupling)


def _followers(coupling: Coupling) -> np.ndarray:
    """Products of which nothing is a parameter's: they go wherever they can."""
    merged = coupling.mark([product.merged.ravel() for product in coupling.products])
    owned = coupling.mark([entry.ids for entry in coupling.entries])
    factors = coupling.mark([ids for product in coupling.products for ids in product.factors if ids is not None])
    return merged & ~owned & ~factors


def choose(model: nn.Module, coupling: Coupling, density: float, of: str, score: UnitScore, call: Call) -> Plan:
    """Plan a cut to a density of units, parameters, MACs or bytes.

    Args:
        model: the model.
        coupling: what is tied to what.
        density: the fraction that stays, in (0, 1].
        of: what it is a fraction of.
        score: what one weight is worth.
        call: example inputs.

    Raises:
        SecateurError: an unknown budget, or one that cannot be reached; it says the nearest.
    """
    check_density(density)
    if of not in BUDGETS:
        raise SecateurError(f"`of` must be one of {', '.join(BUDGETS)}, got {of!r}.{nearest(of, BUDGETS)}")
    worth = unit_scores(model, coupling, score)
    if of == "units":
        return plan(model, coupling, wish_of(coupling, worth, density), call)
    return _within(model, coupling, worth, density, of, call)


def _within(model: nn.Module, coupling: Coupling, worth: np.ndarray, density: float, of: str, call: Call) -> Plan:
    """Halve the interval of unit densities: the largest cut model that is within the budget."""
    whole = count(model, call).of(of)
    twin = on_meta(model) if coupling.meta else model

    def at(units: float) -> tuple[Plan, float]:
        made = plan(twin, coupling, wish_of(coupling, worth, units), call)
        small = copy.deepcopy(twin)
        cut_(small, made)
        return made, count(small, call).of(of) / whole

    low, high = 1e-9, 1.0
    best, reached = at(low)
    if reached > density:
        raise SecateurError(
            f"`density` {density:g} of {of} cannot be reached: with one unit left in each group {reached:.3g} stay for "
            "what is frozen. Ask for at least that."
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        made, share = at(middle)
        if share <= density:
            low, best = middle, made
        else:
            high = middle
    return best
