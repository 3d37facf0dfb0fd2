"""New values of the integers in the user's code, after a cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.coupling._coupling import Coupling
from secateur.coupling.labels import Ids, Row
from secateur.coupling.numbers import Attribute, Size, leaves, value_of
from secateur.coupling.rules import Need

__all__ = ["Refused", "solve_sizes"]

_Values = dict[Attribute | Size, int]


@dataclass(frozen=True, eq=False)
class Refused:
    """Classes that cannot go, and why; empty `ids` mean that nothing can be kept to help."""

    ids: Ids
    why: str


def solve_sizes(coupling: Coupling, gone: np.ndarray) -> tuple[dict[Attribute, int], list[Refused]]:
    """Return new values for attributes, and the sizes that no values can meet.

    A bare attribute takes the new count, `k * attribute` is solved for it, every other expression is computed with the
    new values and must fit.
    """

    def count(ids: Ids) -> int:
        return int((~gone[ids]).sum())

    new: _Values = {Size(k, len(ids)): count(ids) for k, ids in enumerate(coupling.measured)}
    wrong = [
        Refused(coupling.measured[size.index], f"a width read from a shape is used as a value at {coupling.uses[size]}")
        for size, value in new.items()
        if isinstance(size, Size) and size in coupling.uses and value != size.value
    ]
    wanted = [(need, need.size if need.ids is None else count(need.ids)) for need in coupling.needs]
    _solve(wanted, new)
    for need, value in wanted:
        used = [leaf for leaf in leaves(need.expression) if leaf in coupling.uses and new.get(leaf, 0) != leaf.value]
        used = [leaf for leaf in used if leaf in new]
        if used or value_of(need.expression, new) != value:
            why = _why(coupling, need, used, value)
            wrong += [Refused(ids, why) for ids in _sources(coupling, need) if ids is not None]
    return {k: v for k, v in new.items() if isinstance(k, Attribute) and v != k.value}, wrong


def _solve(wanted: list[tuple[Need, int]], new: _Values) -> None:
    for need, value in wanted:
        if isinstance(need.expression, Attribute):
            new.setdefault(need.expression, value)
    for need, value in wanted:  # an attribute that is seen inside `k * attribute` only
        unknown = [leaf for leaf in leaves(need.expression) if leaf not in new]
        if len(unknown) == 1 and value * unknown[0].value % need.size == 0:
            new[unknown[0]] = value * unknown[0].value // need.size


def _why(coupling: Coupling, need: Need, used: list[Attribute | Size], value: int) -> str:
    place = f"{need.place.op} in {need.place.module or 'the model'} at {need.place.line}"
    if used:
        return f"{used[0]} is used as a value at {coupling.uses[used[0]]} ({place})"
    return f"{next(iter(leaves(need.expression)), 'a number')} cannot be {value} ({place})"


def _sources(coupling: Coupling, need: Need) -> list[Row]:
    return [need.ids, *(coupling.measured[leaf.index] for leaf in leaves(need.expression) if isinstance(leaf, Size))]
