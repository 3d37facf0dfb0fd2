"""What an experiment's method is: its place in the catalogue, the arguments of its factory, the value they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from secateur._base.errors import SecateurError, nearest
from secateur._catalogue import Entry, catalogue
from secateur.axes import Method, invert
from secateur.axes.scope import Scope, given
from secateur.axes.structure import Structure, blocks
from secateur.lab import data, models
from secateur.lab.experiment._experiment import DENSE, Experiment, Sanity
from secateur.masks import Masks, prunable
from secateur.selection import check_density

# Arguments that say when a method ends, as fractions of the training steps: what a user does not give, the lab does.
_CLOCK = {"until": 3 / 4, "end": 3 / 4, "steps": 1}
_LAST_CUT = 1 / 2  # the `end` of a method that goes on exchanging `until` later
_TURNS = 10  # how often a method acts at least
_PLAIN = {"bool": (bool,), "int": (int,), "float": (float, int), "str": (str,)}


def entry_of(experiment: Experiment) -> Entry:
    """Return the catalogue's entry of an experiment's method.

    Raises:
        SecateurError: there is no such method, with the nearest.
    """
    known = catalogue()
    if experiment.method not in known:
        names = (DENSE, *known)
        hint = nearest(experiment.method, names)
        raise SecateurError(f"`method` must be one of {', '.join(names)}, got {experiment.method!r}.{hint}")
    return known[experiment.method]


def tags_of(experiment: Experiment) -> frozenset[str]:
    """Return what decides how the method is run: "online", "trained", "program", …; nothing for a dense run."""
    return frozenset() if experiment.method == DENSE else entry_of(experiment).tags


def takes_density(factory: Callable[..., Any]) -> bool:
    """Tell whether a factory is told how much stays, or decides that itself."""
    return "density" in inspect.signature(factory).parameters


def method_of(experiment: Experiment) -> Method:
    """Build the pruning method of an experiment: its factory, at its density, with its options.

    Raises:
        SecateurError: an option that the factory does not have, or refuses.
    """
    try:
        built = entry_of(experiment).factory(**arguments_of(experiment))
    except ValueError as problem:
        raise SecateurError(f"the method {experiment.method} refuses its options: {problem}") from None
    return invert(built) if experiment.sanity is Sanity.INVERT else built


def program_of(experiment: Experiment) -> Callable[..., Masks]:
    """Return the program of an experiment, at its density and with its options: (model, *, train, …) → Masks.

    Raises:
        SecateurError: an option that the program does not have.
    """
    found: Callable[..., Any] = entry_of(experiment).factory
    return partial(found, **arguments_of(experiment))


def arguments_of(experiment: Experiment) -> dict[str, Any]:
    """Return what the method's factory is called with: density, options, blocks; and the clock.

    A clock's end that is not among the options follows from the length of training: `until` and `end` are three
    quarters of its steps, `steps` all of them; `end` of a method that goes on `until` later, half. `every` is the
    method's own default, but never more than a tenth of that time.

    Raises:
        SecateurError: an option that the factory does not have, or of another type.
    """
    check_density(experiment.density)
    factory = entry_of(experiment).factory
    _check_options(experiment, options_of(factory))
    clock = _clock(experiment, inspect.signature(factory).parameters)
    share = {"density": experiment.density} if takes_density(factory) else {}
    units = {"structure": _blocks(experiment, factory)} if experiment.blocked else {}
    among = {"scope": _by_layer(experiment, factory)} if experiment.layers else {}
    return share | clock | dict(experiment.options) | units | among


def options_of(factory: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Return the options of a method's factory that a plain value can set, with the types they take.

    >>> options_of(catalogue()["force"].factory)
    {'rounds': (<class 'int'>,), 'train': (<class 'bool'>,)}
    """
    found: dict[str, tuple[type, ...]] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        words = [word.strip() for word in str(parameter.annotation).split("|")]
        kinds = tuple(kind for word in words for kind in _PLAIN.get(word, ()))
        if name != "density" and kinds:
            found[name] = kinds
    return found


def _check_options(experiment: Experiment, known: Mapping[str, tuple[type, ...]]) -> None:
    for name, value in experiment.options:
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise SecateurError(f"the method {experiment.method} has no option {name!r}; {has}.{nearest(name, known)}")
        if not isinstance(value, known[name]) or (isinstance(value, bool) and bool not in known[name]):
            kinds = " or ".join(kind.__name__ for kind in known[name])
            raise SecateurError(f"the option {name} of {experiment.method} must be of type {kinds}, got {value!r}.")


def _clock(experiment: Experiment, parameters: Mapping[str, inspect.Parameter]) -> dict[str, int]:
    """What a method that acts while it is trained needs to know of how long that is."""
    steps, given = experiment.recipe.steps, dict(experiment.options)
    parts = {name: part for name, part in _CLOCK.items() if name in parameters}
    if {"until", "end"} <= parts.keys():
        parts["end"] = _LAST_CUT
    clock = {name: max(1, int(steps * part)) for name, part in parts.items()}
    every = parameters["every"].default if "every" in parameters else None
    if clock and isinstance(every, int):
        last = min(int(given.get(name, step)) for name, step in clock.items())
        clock["every"] = max(1, min(every, last // _TURNS))
    return clock


def _by_layer(experiment: Experiment, factory: Callable[..., Any]) -> Scope:
    """The scope of an experiment that says itself how much stays of each layer."""
    if "scope" not in inspect.signature(factory).parameters:
        raise SecateurError(
            f"`layers` say what stays of each layer, and the method {experiment.method} takes no scope. Methods that "
            f"do: {', '.join(n for n, e in catalogue().items() if 'scope' in inspect.signature(e.factory).parameters)}."
        )
    source = data.catalogue()[experiment.data]
    model = models.skeleton(experiment.model, in_shape=source.shape, num_classes=source.num_classes)
    names = list(prunable(model))
    if len(names) != len(experiment.layers):
        raise SecateurError(
            f"`layers` must have a number for each of the {len(names)} prunable tensors of {experiment.model} "
            f"({', '.join(names)}), got {len(experiment.layers)}."
        )
    return given(dict(zip(names, experiment.layers, strict=True)))


def _blocks(experiment: Experiment, factory: Callable[..., Any]) -> Structure:
    if "structure" not in inspect.signature(factory).parameters:
        able = ", ".join(n for n, e in catalogue().items() if "structure" in inspect.signature(e.factory).parameters)
        raise SecateurError(
            f"the method {experiment.method} prunes what its paper prunes and takes no `block`, got "
            f"{experiment.block}. Methods that do: {able}."
        )
    return blocks(*experiment.block)
