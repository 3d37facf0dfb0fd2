"""What a cut did, as fields: what stayed of each tensor and of each group of units, and where the units lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.coupling import ResidualBlock, lies_in

__all__ = ["Cut", "Span", "UnitRecord"]


@dataclass(frozen=True)
class UnitRecord:
    """What stayed of a group of units.

    Attributes:
        group: its name.
        total: how many units it had.
        kept: which stayed, by their old numbers; the place in the list is the new one.
        scores: what each was worth, by its old number; empty where none was scored.
        causes: why a unit went, or stayed, where that was not by its score.
    """

    group: str
    total: int
    kept: tuple[int, ...]
    scores: tuple[float, ...] = ()
    causes: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.group}: {len(self.kept)} of {self.total}"

    def why(self, unit: int) -> str:
        """Say what became of a unit, and why as far as that is known."""
        stays = unit in self.kept
        fate = f"stays, as {self.kept.index(unit)}" if stays else "went"
        text = f"unit {unit} of {self.group} ({self.total} units, {len(self.kept)} stay) {fate}"
        reasons = [each for each in (self.causes.get(unit), self._by_score(unit)) if each]
        return f"{text}: {'; '.join(reasons)}" if reasons else text

    def _by_score(self, unit: int) -> str:
        if not self.scores or math.isnan(self.scores[unit]):
            return ""
        mine = self.scores[unit]
        above = sum(score > mine or (score == mine and k < unit) for k, score in enumerate(self.scores))
        return f"score {mine:.4g}, rank {above + 1} of {self.total}"


@dataclass(frozen=True)
class Span:
    """A stretch of a dimension, and what its indices belong to.

    Attributes:
        begin: where it begins, by the old index.
        size: how long it is.
        group: the number of its group; −1 where it cannot be chosen.
        unit: which unit of the group its first index is.
        step: by how much the unit grows from index to index, 1 or 0.
        reason: where it cannot be chosen, the number of the reason.
    """

    begin: int
    size: int
    group: int
    unit: int = 0
    step: int = 1
    reason: int = -1

    def holds(self, index: int) -> bool:
        """Whether an index lies in it."""
        return self.begin <= index < self.begin + self.size

    def unit_of(self, index: int) -> int:
        """Return which unit of the group an index is."""
        return self.unit + self.step * (index - self.begin)


@dataclass(frozen=True, eq=False)
class Cut:
    """What a cut did, enough to say where everything was and to undo it.

    Attributes:
        shapes: old shape of every tensor that became smaller, by name.
        kept: which old indices stayed, by name and dimension; the place in the list is the new index.
        numbers: integers in the user's code, old and new value, by path.
        rescaled: weights of root mean square norms, with the factor that they were multiplied by, and whether 1 is
            added to them.
        groups: what stayed of each group of units, and why.
        added: parameters that a fold made.
        epsilons: of root mean square norms, old (None where torch takes that of the type) and new, by path.
        places: to which unit of which group each index of each dimension belongs, by name and dimension.
        reasons: for what cannot be chosen, in words, as `places` count them.
        removed: residual blocks that went as a whole, with all of their tensors.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    numbers: Mapping[str, tuple[int, int]]
    rescaled: Mapping[str, tuple[float, bool]]
    groups: tuple[UnitRecord, ...]
    added: tuple[str, ...] = ()
    epsilons: Mapping[str, tuple[float | None, float]] = field(default_factory=dict)
    places: Mapping[str, Mapping[int, tuple[Span, ...]]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    removed: tuple[ResidualBlock, ...] = ()

    def new_index(self, name: str, old: int, *, dim: int = 0) -> int | None:
        """Return where an index of a tensor's dimension is now; None where it went."""
        if lies_in(name, self.removed) is not None:
            return None
        kept = self.kept.get(name, {}).get(dim)
        return old if kept is None else kept.index(old) if old in kept else None

    def old_index(self, name: str, new: int, *, dim: int = 0) -> int:
        """Return where an index of the smaller tensor's dimension was."""
        kept = self.kept.get(name, {}).get(dim)
        return new if kept is None else kept[new]
