"""A pruning method is a value: what is scored, what moves together, who competes, and when."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from secateur._base.errors import SecateurError, nearest
from secateur.axes._score import Score, ScoreFunction, measured
from secateur.axes.gate import Relax
from secateur.axes.penalty import Penalty
from secateur.axes.regrow import Regrow
from secateur.axes.repair import Repair
from secateur.axes.schedule import Schedule
from secateur.axes.scope import Scope, inverted
from secateur.axes.structure import Structure
from secateur.measures import Measure, Needs


@dataclass(frozen=True)
class Method:
    """Eight choices that make a pruning method. Frozen, hashable, printable; two equal ones prune alike.

    Attributes:
        name: as printed, the paper's acronym in lower case.
        score: what a unit is worth: a function whose argument names are measures (`measured` binds others); None only
            where gates decide what stays.
        structure: what moves together.
        scope: who competes with whom.
        schedule: when, and down to which density.
        regrow: whether, and by what score, pruned weights may return; None: they may not.
        relax: (name, parameter) → the `Gate` that stands there while the network trains; None: none.
        repair: what survivors do after the cut; None: they keep their weights.
        penalty: what is added to the loss, or done after each step, until the schedule's last milestone; None: nothing.
    """

    name: str
    score: Score | None
    structure: Structure
    scope: Scope
    schedule: Schedule
    regrow: Regrow | None = None
    relax: Relax | None = None
    repair: Repair | None = None
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        if self.score is None and self.relax is None:
            raise SecateurError(f"{self.name}: `score` is None and no `relax` puts up gates: nothing says what stays.")
        if self.penalty is not None and self.schedule.milestones[-1].step < 1:
            raise SecateurError(
                f"{self.name}: its penalty {self.penalty.name!r} acts until the schedule's last milestone, which is "
                "step 0, so it never would. Let the schedule end later: schedule.once(density, at=steps)."
            )

    @property
    def density(self) -> float | None:
        """The density at which the method ends; None where it emerges from the scope or from gates."""
        return self.schedule.final if self.scope.counted else None

    @property
    def scores(self) -> tuple[Score, ...]:
        """Every score that the method asks for: its own, and those of its regrowth."""
        own = () if self.score is None else (self.score,)
        return own if self.regrow is None else (*own, *self.regrow.scores)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All evidence that the method asks for, each kind once."""
        asked = [measure for score in self.scores for _, measure in score.measures]
        asked += self.repair.measures if self.repair is not None else ()
        found = {measure.name: measure for measure in asked}
        for measure in asked:
            if found[measure.name] != measure:
                raise SecateurError(
                    f"{self.name} measures {measure.name!r} in two ways; give one of the two another name "
                    "(dataclasses.replace(measure, name=…))."
                )
        return tuple(found.values())

    @property
    def online(self) -> bool:
        """Whether the method can only act while the network trains, through a `Pruner`."""
        attached = self.relax is not None or self.penalty is not None
        grown = self.regrow is not None and self.regrow.online
        return attached or grown or not all(measure.offline for score in self.scores for _, measure in score.measures)

    @property
    def held_out(self) -> bool:
        """Whether its gates learn from examples of their own, which a Pruner must be given as `batches`."""
        return bool(getattr(self.relax, "held_out", False))

    @property
    def needs(self) -> Needs:
        """What a user must bring to `prune`."""
        return Needs.NOTHING if self.score is None else self.score.needs

    def __str__(self) -> str:
        return f"{self.name}: {self.structure.name}, {self.scope.name}, {self.schedule.name}"


def method(
    name: str,
    score: Score | ScoreFunction | None,
    *,
    structure: Structure,
    scope: Scope,
    schedule: Schedule,
    regrow: Regrow | None = None,
    relax: Relax | None = None,
    repair: Repair | None = None,
    penalty: Penalty | None = None,
) -> Method:
    """Make a Method from a plain score function; see `Method` for the choices.

    >>> from secateur import schedule, scope, structure
    >>> m = method("tiny", lambda weight: weight.abs(), structure=structure.weights(),
    ...            scope=scope.everywhere(), schedule=schedule.once(0.5))
    >>> print(m)
    tiny: weights, everywhere, once(0.5)
    """
    bound = score if score is None or isinstance(score, Score) else measured(score)
    return Method(name, bound, structure, scope, schedule, regrow, relax, repair, penalty)


def invert(method: Method) -> Method:
    """Keep the lowest scores instead of the highest, with the same counts: the *invert* sanity check.

    For densities up to ½ the result shares no weight with the method's own mask (one-shot methods), ties included.
    Source: "Pruning neural networks at initialization: why are we missing the mark?", arXiv 2009.08576, §4.
    """
    return replace(method, name=f"inverted {method.name}", scope=inverted(method.scope))


Factory = Callable[..., Method]


def speaking(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method's function answer an option that it does not have with a sentence that names the way out."""
    known = inspect.signature(factory).parameters

    @functools.wraps(factory)
    def _answered(*args: Any, **options: Any) -> Any:
        for option, value in options.items():
            if option not in known:
                raise SecateurError(_no_such_option(factory.__name__, option, value, known))
        return factory(*args, **options)

    return _answered


def _no_such_option(name: str, option: str, value: Any, known: Collection[str]) -> str:
    said = f"{name} has no option `{option}`."
    if option == "sparsity" and "density" in known and isinstance(value, int | float) and 0 <= value < 1:
        return f"{said} What counts here is what stays: sparsity={value:g} is density={round(1 - value, 12):g}."
    return f"{said}{nearest(option, known)} It has {', '.join(known)}."
