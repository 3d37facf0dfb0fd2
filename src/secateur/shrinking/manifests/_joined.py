"""Two cuts, one after the other, as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from secateur._base.errors import SecateurError
from secateur.coupling import ResidualBlock, lies_in
from secateur.shrinking.manifests._record import Cut, UnitRecord

__all__ = ["joined"]

_Kept = Mapping[int, tuple[int, ...]]


def joined(first: Cut, second: Cut) -> dict[str, Any]:
    """Return the fields of the cut from the first model to the last; indices and units are those of the first."""
    _require_meeting(first, second)
    first = _outside(first, second.removed)
    names = [*first.kept, *(name for name in second.kept if name not in first.kept)]
    return {
        "shapes": {name: first.shapes[name] if name in first.shapes else second.shapes[name] for name in names},
        "kept": {name: _through(first.kept.get(name, {}), second.kept.get(name, {})) for name in names},
        "numbers": _ends(first.numbers, second.numbers),
        "rescaled": _scales(first.rescaled, second.rescaled),
        "groups": _groups(first, second),
        "added": tuple(sorted({*first.added, *second.added})),
        "epsilons": _ends(first.epsilons, second.epsilons),
        "places": first.places,
        "reasons": first.reasons,
        "removed": (*first.removed, *second.removed),
    }


def _outside(cut: Cut, removed: tuple[ResidualBlock, ...]) -> Cut:
    """The cut without what it says of blocks that went later."""
    if not removed:
        return cut
    tables = ("shapes", "kept", "numbers", "rescaled", "epsilons", "places")
    left = {
        table: {name: value for name, value in getattr(cut, table).items() if lies_in(name, removed) is None}
        for table in tables
    }
    return replace(cut, **left, added=tuple(name for name in cut.added if lies_in(name, removed) is None))


def _require_meeting(first: Cut, second: Cut) -> None:
    for name, shape in second.shapes.items():
        dims = first.kept.get(name, {})
        old = first.shapes.get(name, shape)
        left = tuple(len(dims[d]) if d in dims else n for d, n in enumerate(old))
        if name in first.shapes and left != shape:
            raise SecateurError(
                f"`then` joins a cut with one of the model that it left: {name!r} was left with the shape {left}, and "
                f"the second manifest begins with {shape}."
            )


def _through(first: _Kept, second: _Kept) -> dict[int, tuple[int, ...]]:
    found = dict(first)
    for dim, kept in second.items():
        found[dim] = tuple(first[dim][k] for k in kept) if dim in first else kept
    return found


def _ends(first: Mapping[str, tuple[Any, Any]], second: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The old value of the first that speaks of something, and the new one of the last."""
    found = dict(first)
    for name, (old, new) in second.items():
        found[name] = (found[name][0] if name in found else old), new
    return found


def _scales(
    first: Mapping[str, tuple[float, bool]], second: Mapping[str, tuple[float, bool]]
) -> dict[str, tuple[float, bool]]:
    found = dict(first)
    for name, (factor, plus_one) in second.items():
        found[name] = found.get(name, (1.0, plus_one))[0] * factor, plus_one
    return found


def _groups(first: Cut, second: Cut) -> tuple[UnitRecord, ...]:
    later = _later(first, second)
    found = []
    for number, record in enumerate(first.groups):
        fates = {unit: later[number, unit] for unit in record.kept if (number, unit) in later}
        causes = dict(record.causes)
        for unit, fate in fates.items():
            causes[unit] = f"{causes[unit]}; then {fate[1]}" if unit in causes else f"then {fate[1]}"
        kept = tuple(unit for unit in record.kept if unit not in fates or fates[unit][0])
        found.append(replace(record, kept=kept, causes=causes))
    return tuple(found)


def _later(first: Cut, second: Cut) -> dict[tuple[int, int], tuple[bool, str]]:
    """For units of the first cut: whether each stays in the second, and what that says of it."""
    found: dict[tuple[int, int], tuple[bool, str]] = {}
    for name, dims in second.places.items():
        for dim, spans in dims.items():
            olds = first.places.get(name, {}).get(dim, ())
            for span in spans:
                for index in range(span.begin, span.begin + span.size) if span.group >= 0 else ():
                    record = second.groups[span.group]
                    unit = span.unit_of(index)
                    fate = unit in record.kept, record.why(unit)
                    old = first.old_index(name, index, dim=dim)
                    mine = [each for each in olds if each.group >= 0 and each.holds(old)]
                    theirs = [each for each in spans if each.group >= 0 and each.holds(index)]
                    if len(mine) == len(theirs):  # a head and a place in it, in the same order
                        each = mine[theirs.index(span)]
                        found[each.group, each.unit_of(old)] = fate
    return found
