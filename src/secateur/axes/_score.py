"""Scores: plain functions whose argument names say which evidence they need, like pytest fixtures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from secateur._base.errors import ScoreError, SecateurError, nearest
from secateur.measures import KNOWN, Measure, Needs, at_least_float32

ScoreFunction = Callable[..., Tensor]

_OUT = "out"


@dataclass(frozen=True)
class Score:
    """A score function together with the measures that serve its arguments.

    `function` is called once per parameter with that parameter's evidence and returns one number per weight (the
    parameter's shape), or one per unit of the method's structure, or one per entry of the layer's `rows`, if it asks
    for them; a higher score means keep. Its arguments are float32 at least, whatever the model's dtype, and read-only:
    other scores may ask for the same evidence.

    A function may have one more argument, `out`, None by default: a tensor like the result to make it in, as torch's
    own `out`. It is given where nobody reads some evidence afterwards, and is then that argument's own memory: for one
    operation entry by entry, the first.
    """

    function: ScoreFunction
    measures: tuple[tuple[str, Measure], ...] = field(repr=False)
    takes_out: bool = field(default=False, repr=False)

    @property
    def needs(self) -> Needs:
        """What a user must bring: the most that any of the measures needs."""
        return max((measure.needs for _, measure in self.measures), default=Needs.NOTHING)

    def __call__(self, evidence: Mapping[str, Mapping[str, Tensor]], name: str, *, out: Tensor | None = None) -> Tensor:
        """Score one parameter; in `out`, where the function takes it."""
        arguments: dict[str, Tensor | None] = {
            argument: at_least_float32(evidence[measure.name][name]) for argument, measure in self.measures
        }
        if self.takes_out:
            arguments[_OUT] = out
        try:
            scores = self.function(**arguments)
        except SecateurError as error:  # a score that solves the layer knows what is wrong, and not where
            raise ScoreError(f"{name!r}: {error}") from error
        if not isinstance(scores, Tensor):
            raise ScoreError(
                f"`{_name(self.function)}` must return a tensor of scores for {name!r}, got {type(scores).__name__}."
            )
        return scores


def measured(function: ScoreFunction, measures: Mapping[str, Measure] | None = None) -> Score:
    """Bind a score function's arguments to measures: each to the one of its name, or to the one in `measures`.

    Raises:
        TypeError: an argument that no measure serves, a variadic argument, or a binding without its argument.

    >>> from secateur.measures import grad_average
    >>> measured(lambda weight, grad: (weight * grad).abs(), {"grad": grad_average(decay=0.9)}).needs
    <Needs.LABELS: 3>
    """
    given = dict(measures or {})
    bound: list[tuple[str, Measure]] = []
    parameters = inspect.signature(function).parameters
    for argument, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"`{_name(function)}`: a score names its evidence one by one; *{argument} is not possible.")
        if argument == _OUT and parameter.default is None:
            continue
        if argument in given:
            bound.append((argument, given.pop(argument)))
        elif argument in KNOWN:
            bound.append((argument, KNOWN[argument]()))
        else:
            raise TypeError(
                f"`{_name(function)}` asks for unknown evidence {argument!r}.{nearest(argument, KNOWN)} "
                f"Known: {', '.join(KNOWN)}."
            )
    if given:
        raise TypeError(f"`{_name(function)}` has no argument {', '.join(map(repr, given))} to bind a measure to.")
    if not bound:
        raise TypeError(f"`{_name(function)}` asks for no evidence. Known: {', '.join(KNOWN)}.")
    return Score(function, tuple(bound), takes_out=_OUT in parameters)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
