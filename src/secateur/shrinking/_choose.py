"""From densities to a cut: as many units of each group as keep all budgets, counted or measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from secateur._base.errors import SecateurError, nearest
from secateur.costing import Call, count, forward, serving
from secateur.coupling import Coupling, on_meta
from secateur.selection import check_density
from secateur.shrinking._plan import plan
from secateur.shrinking.cuts import Plan, cut, cut_
from secateur.shrinking.units import Limits, UnitScore, unit_scores, wish_of
from secateur.turns import decide

__all__ = ["BUDGETS", "Chosen", "check_budgets", "choose"]

BUDGETS = ("units", "params", "macs", "bytes", "memory", "ms")
_HALVINGS, _TIMED_HALVINGS = 14, 3
_GRID = 8  # shares that are tried from above before the interval between two is halved
_SECONDS, _FINAL_SECONDS = 0.5, 1.5  # of timing for each candidate, and for the one that is taken
_STEP_BACK = 0.93  # of the units, where a longer look finds the last candidate too slow
_LEAST = 1e-9  # a density that leaves as little as is allowed

#: From a share of units to what is over its budget, and by how much of it stays.
Over = Callable[[float], Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Chosen:
    """A cut that keeps its budgets, and how it was chosen.

    Attributes:
        plan: the cut.
        worth: what each class is worth.
        wish: which classes were to go, before the model's own code and equal counts took some back.
    """

    plan: Plan
    worth: np.ndarray
    wish: np.ndarray


def check_budgets(what: float | Mapping[str, float], of: str) -> dict[str, float]:
    """Read a density, or several by what they are densities of.

    Raises:
        SecateurError: an unknown budget, none, or a density that is none.
    """
    given = dict(what) if isinstance(what, Mapping) else {of: what}
    if not given:
        raise SecateurError('`what` must name at least one budget, as {"params": 0.5}, got none.')
    for kind, density in given.items():
        if kind not in BUDGETS:
            name = "`what`" if isinstance(what, Mapping) else "`of`"
            raise SecateurError(f"{name} must be one of {', '.join(BUDGETS)}, got {kind!r}.{nearest(kind, BUDGETS)}")
        check_density(density)
    return {kind: float(density) for kind, density in given.items()}


def choose(
    model: nn.Module,
    coupling: Coupling,
    budgets: Mapping[str, float],
    score: UnitScore,
    call: Call,
    limits: Limits | None = None,
) -> Chosen:
    """Plan the cut that keeps most units of those that keep every budget.

    Args:
        model: the model.
        coupling: what is tied to what.
        budgets: of what → the fraction of it that stays, in (0, 1].
        score: what one weight is worth.
        call: example inputs.
        limits: which units may be chosen, and how many of them must stay.

    Raises:
        SecateurError: a budget that cannot be reached; it says the nearest.
    """
    worth = unit_scores(model, coupling, score)
    search = _Search(model, coupling, worth, call, limits or Limits())
    most = budgets.get("units", 1.0)
    counted = {kind: density for kind, density in budgets.items() if kind not in ("units", "ms")}
    if counted:
        most = search.within(most, lambda units: search.excess(units, counted), counted)
    if "ms" in budgets:
        most = search.fast_enough(most, budgets["ms"])
    return search.at(most)


@dataclass(eq=False)
class _Search:
    """Cuts of one model by the share of units that stays, each planned and counted once."""

    model: nn.Module
    coupling: Coupling
    worth: np.ndarray
    call: Call
    limits: Limits
    known: dict[bytes, Chosen] = field(default_factory=dict)
    shares: dict[bytes, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.twin = on_meta(self.model) if self.coupling.meta else self.model
        self.whole = None

    def at(self, units: float) -> Chosen:
        """Return the cut at a share of units."""
        wish = wish_of(self.coupling, self.worth, units, self.limits)
        key = wish.tobytes()
        if key not in self.known:
            self.known[key] = Chosen(plan(self.model, self.coupling, wish, self.call), self.worth, wish)
        return self.known[key]

    def excess(self, units: float, budgets: Mapping[str, float]) -> dict[str, float]:
        """Return what stays of what is over its budget."""
        chosen = self.at(units)
        key = chosen.wish.tobytes()
        if key not in self.shares:
            self.whole = self.whole or count(self.model, self.call)
            small = copy.deepcopy(self.twin)
            cut_(small, chosen.plan)
            found = count(small, self.call)
            self.shares[key] = {kind: found.of(kind) / max(1, self.whole.of(kind)) for kind in budgets}
        return {kind: share for kind, share in self.shares[key].items() if share > budgets[kind]}

    def within(self, most: float, over: Over, budgets: Mapping[str, float]) -> float:
        """Halve the interval of shares: the largest that was found under which nothing is over its budget."""
        if not over(most):
            return most
        if too_much := over(_LEAST):
            raise SecateurError(self._out_of_reach(budgets, too_much))
        return self._halved(_LEAST, most, over, _HALVINGS)

    def _halved(self, low: float, high: float, over: Over, halvings: int) -> float:
        for _ in range(halvings):
            if self._same(low, high):
                break
            middle = (low + high) / 2
            low, high = (low, middle) if over(middle) else (middle, high)
        return low

    def _same(self, low: float, high: float) -> bool:
        one, other = (wish_of(self.coupling, self.worth, units, self.limits) for units in (low, high))
        return bool((one == other).all())

    def _out_of_reach(self, budgets: Mapping[str, float], too_much: Mapping[str, float]) -> str:
        kind = next(iter(too_much))
        limited = self.limits.free is not None or self.limits.multiples > 1 or self.limits.minimum > 1
        least = "as few units as `only`, `multiples` and `minimum` allow" if limited else "one unit left in each group"
        stay = "of the time are still taken" if kind == "ms" else "stay for what is frozen"
        return (
            f"`density` {budgets[kind]:g} of {kind} cannot be reached: with {least} {too_much[kind]:.3g} {stay}. Ask "
            "for at least that."
        )

    def fast_enough(self, most: float, density: float) -> float:
        """Search by measured time, in turns with the model of full size; the last is measured once more, for longer.

        Time does not fall evenly with width (some widths suit a processor), so it is looked for from above.
        """

        def over(units: float, seconds: float = _SECONDS) -> dict[str, float]:
            ratio = self._ratio(units, seconds)
            return {"ms": ratio} if ratio > density else {}

        shares = [most * k / _GRID for k in range(_GRID, 0, -1)] + [_LEAST]
        place = next((k for k, share in enumerate(shares) if not over(share)), None)
        found = _LEAST if place is None else shares[place]
        if place:
            found = self._halved(found, shares[place - 1], over, _TIMED_HALVINGS)
        while too_slow := over(found, _FINAL_SECONDS):
            if self._same(found, _LEAST):
                raise SecateurError(self._out_of_reach({"ms": density}, too_slow))
            found = max(_LEAST, found * _STEP_BACK)
        return found

    def _ratio(self, units: float, seconds: float) -> float:
        small = cut(self.model, self.at(units).plan)
        with serving(self.model, small):
            return decide(forward(self.model, self.call), forward(small, self.call), seconds=seconds).ratio
