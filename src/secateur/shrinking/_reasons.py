"""Why each unit goes or stays, as far as whoever chose it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from secateur.coupling import Coupling
from secateur.shrinking.cuts import Plan
from secateur.shrinking.manifests import Span, UnitRecord

__all__ = ["Reasons", "places_of", "records_of"]

_TAKEN_BACK = "was to go, and stays: the model's own code, an equal width or another entry of its product needs it"
_TIED = "goes with the units that it is tied to"


@dataclass(frozen=True, eq=False)
class Reasons:
    """What a choice was made by.

    Attributes:
        worth: of each class; None where none was scored.
        wish: which classes were to go.
        causes: classes, one bool each, and the cause of their going; the first that fits holds.
    """

    worth: np.ndarray | None = None
    wish: np.ndarray | None = None
    causes: tuple[tuple[np.ndarray, str], ...] = field(default=())


def records_of(coupling: Coupling, plan: Plan, reasons: Reasons) -> tuple[UnitRecord, ...]:
    """Write down what stays of each group, and why."""
    frozen = [(coupling.mark([each.ids]), str(each)) for each in plan.frozen]
    found = []
    for group in coupling.groups:
        gone = plan.gone[group.units]
        kept = tuple(np.flatnonzero(~gone).tolist())
        scores = () if reasons.worth is None else tuple(reasons.worth[group.units].tolist())
        causes: dict[int, str] = {}
        for unit, each in enumerate(group.units.tolist()):
            if text := _cause(each, bool(gone[unit]), reasons, frozen):
                causes[unit] = text
        found.append(UnitRecord(group.name, len(group.units), kept, scores, causes))
    return tuple(found)


def _cause(unit: int, gone: bool, reasons: Reasons, frozen: Sequence[tuple[np.ndarray, str]]) -> str:
    if not gone:
        if reasons.wish is None or not reasons.wish[unit]:
            return ""
        found = next((text for marked, text in frozen if marked[unit]), "")
        return f"was to go, and stays: {found}" if found else _TAKEN_BACK
    for marked, text in reasons.causes:
        if marked[unit]:
            return text
    return _TIED if reasons.wish is not None and not reasons.wish[unit] else ""


def places_of(coupling: Coupling) -> tuple[dict[str, dict[int, tuple[Span, ...]]], tuple[str, ...]]:
    """Write down to which unit each index of each tensor belongs, and the reasons of those that cannot be chosen."""
    seats = _Seats(coupling)
    found: dict[str, dict[int, tuple[Span, ...]]] = {}
    for entry in coupling.entries:
        spans = seats.spans(entry.ids)
        for name in entry.names:
            found.setdefault(name, {})[entry.dim] = spans
    return found, tuple(seats.reasons)


class _Seats:
    """For each class: the group and unit that it is, or those of its factors, or why it cannot be chosen."""

    def __init__(self, coupling: Coupling) -> None:
        self._group = np.full(coupling.count, -1)
        self._unit = np.zeros(coupling.count, int)
        for number, group in enumerate(coupling.groups):
            self._group[group.units], self._unit[group.units] = number, np.arange(len(group.units))
        self._reason = np.full(coupling.count, -1)
        self.reasons: list[str] = []
        known: dict[str, int] = {}
        for each in coupling.frozen:
            number = known.setdefault(str(each), len(known))
            self._reason[each.ids[self._reason[each.ids] < 0]] = number
        self.reasons = [*known, "nothing that may be chosen makes it"]
        self._known: dict[int, tuple[np.ndarray, tuple[Span, ...]]] = {}
        self._factors: dict[int, list[int]] = {}
        for product in coupling.products:
            shape = product.merged.shape
            grids = [np.broadcast_to(ids.reshape(own), shape) for _, ids, own, _ in product.axes()]
            for k, each in enumerate(product.merged.ravel().tolist()):
                if each not in self._factors:
                    self._factors[each] = [int(grid.flat[k]) for grid in grids]
        self._merged = np.fromiter(self._factors, int, len(self._factors))

    def of(self, each: int, seen: frozenset[int] = frozenset()) -> list[tuple[int, int, int]]:
        """List (group, unit, reason) of a class."""
        if self._group[each] >= 0:
            return [(int(self._group[each]), int(self._unit[each]), -1)]
        inner = [] if each in seen else self._factors.get(each, [])
        found = [seat for factor in inner for seat in self.of(factor, seen | {each}) if seat[0] >= 0]
        reason = int(self._reason[each])
        return found or [(-1, 0, reason if reason >= 0 else len(self.reasons) - 1)]

    def spans(self, ids: np.ndarray) -> tuple[Span, ...]:
        """Join the seats of a dimension to stretches."""
        if id(ids) not in self._known:  # what is tied shares its array
            plain = (self._group[ids] >= 0) | ~np.isin(ids, self._merged)
            self._known[id(ids)] = ids, self._plain(ids) if plain.all() else self._mixed(ids)
        return self._known[id(ids)][1]

    def _plain(self, ids: np.ndarray) -> tuple[Span, ...]:
        """The same for classes that are units themselves, or cannot be chosen."""
        group, unit = self._group[ids], self._unit[ids]
        reason = np.where(group >= 0, -1, np.where(self._reason[ids] >= 0, self._reason[ids], len(self.reasons) - 1))
        new = (np.diff(group) != 0) | (np.diff(reason) != 0) | ((np.diff(unit) != 1) & (group[1:] >= 0))
        begins = np.concatenate([[0], np.flatnonzero(new) + 1]).tolist()
        ends = [*begins[1:], len(ids)]
        columns = (each[begins].tolist() for each in (group, unit, reason))
        return tuple(
            Span(begin, end - begin, each, first, 1, why)
            for begin, end, each, first, why in zip(begins, ends, *columns, strict=True)
        )

    def _mixed(self, ids: np.ndarray) -> tuple[Span, ...]:
        found: list[Span] = []
        open_: list[Span] = []
        for index, each in enumerate(ids.tolist()):
            now = self.of(each)
            if len(now) == len(open_) and all(
                _goes_on(span, index, seat) for span, seat in zip(open_, now, strict=True)
            ):
                open_ = [_longer(span, seat) for span, seat in zip(open_, now, strict=True)]
                continue
            found += open_
            open_ = [Span(index, 1, group, unit, 1, reason) for group, unit, reason in now]
        return tuple([*found, *open_])


def _goes_on(span: Span, index: int, seat: tuple[int, int, int]) -> bool:
    group, unit, reason = seat
    if (group, reason) != (span.group, span.reason):
        return False
    return group < 0 or unit == span.unit_of(index) or (span.size == 1 and unit == span.unit)


def _longer(span: Span, seat: tuple[int, int, int]) -> Span:
    step = 0 if span.group >= 0 and seat[1] == span.unit else span.step
    return Span(span.begin, span.size + 1, span.group, span.unit, step, span.reason)
