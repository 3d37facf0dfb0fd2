"""A pruning method is a value: what is scored, what moves together, who competes, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from secateur._base.errors import SecateurError
from secateur.axes._score import Score, ScoreFunction, measured
from secateur.axes.regrow import Revive
from secateur.axes.repair import Repair
from secateur.axes.schedule import Schedule
from secateur.axes.scope import Scope
from secateur.axes.structure import Structure


@dataclass(frozen=True)
class Method:
    """Seven choices that make a pruning method. Frozen, hashable, printable; two equal ones prune alike.

    Attributes:
        name: as printed, the paper's acronym in lower case.
        score: what a unit is worth: a function whose argument names are measures (`measured` binds others).
        structure: what moves together.
        scope: who competes with whom.
        schedule: when, and down to which density.
        regrow: whether pruned weights may return; None: they may not.
        relax: room for gates, penalties and dropout rules; no method of this release uses it.
        repair: what survivors do after the cut; None: they keep their weights.
    """

    name: str
    score: Score
    structure: Structure
    scope: Scope
    schedule: Schedule
    regrow: Revive | None = None
    relax: Any = None
    repair: Repair | None = None

    def __post_init__(self) -> None:
        if self.relax is not None:
            raise SecateurError(f"`relax` has no meaning yet, got {self.relax!r}. Leave it None.")

    @property
    def density(self) -> float | None:
        """The density at which the method ends; None where it emerges from the scope."""
        return self.schedule.final

    @property
    def needs(self) -> str:
        """What a user must bring to `prune`: "nothing", "inputs" (only their shape) or "labels"."""
        return self.score.needs

    def __str__(self) -> str:
        return f"{self.name}: {self.structure.name}, {self.scope.name}, {self.schedule.name}"


def method(
    name: str,
    score: Score | ScoreFunction,
    *,
    structure: Structure,
    scope: Scope,
    schedule: Schedule,
    regrow: Revive | None = None,
    repair: Repair | None = None,
) -> Method:
    """Make a Method from a plain score function; see `Method` for the choices.

    >>> from secateur import schedule, scope, structure
    >>> m = method("tiny", lambda weight: weight.abs(), structure=structure.weights(),
    ...            scope=scope.everywhere(), schedule=schedule.once(0.5))
    >>> print(m)
    tiny: weights, everywhere, once(0.5)
    """
    bound = score if isinstance(score, Score) else measured(score)
    return Method(name, bound, structure, scope, schedule, regrow=regrow, repair=repair)


def invert(method: Method) -> Method:
    """Keep the lowest scores instead of the highest, with the same counts: the *invert* sanity check.

    For densities up to ½ the result shares no weight with the method's own mask (one-shot methods), ties included.
    Source: "Pruning neural networks at initialization: why are we missing the mark?", arXiv 2009.08576, §4.
    """
    return replace(method, name=f"inverted {method.name}", scope=replace(method.scope, lowest=not method.scope.lowest))


Factory = Callable[..., Method]
