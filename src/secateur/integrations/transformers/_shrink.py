"""Whole units out of a model of transformers, the same number in every layer, as its config can say."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from secateur._base.arguments import named
from secateur._base.errors import SecateurError
from secateur.axes import Method
from secateur.axes.scope import layerwise
from secateur.axes.structure import ResidualBlocks, channels
from secateur.coupling import Group, Outputs
from secateur.integrations.transformers._config import fitted
from secateur.integrations.transformers._depth import shallower
from secateur.measures import Batch, Loss
from secateur.methods import l1_filters
from secateur.shrinking import Asked, Shrunk, Terms, draft, l1

__all__ = ["shrink"]

_KINDS = ("units", "heads", "stream")


def shrink(
    model: nn.Module,
    what: float | Method,
    example_inputs: Any,
    *,
    kinds: Sequence[str] = _KINDS,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    outputs: Outputs | None = None,
    modes: Sequence[str] = ("eval", "train"),
    timed: bool = False,
) -> Shrunk:
    """Make a model of transformers smaller so that its config says so, and prove that it opens again.

    The same share of every layer goes: units of the perceptrons, heads (with grouped queries, groups), and the width of
    the stream where its norms are root mean squares. Heads keep their width, from which positions and scales follow.
    The new config is found by making models from it, until one has the shapes of the smaller model and computes the
    same on the example; `shrunk.model.save_pretrained(folder)` then writes what `from_pretrained` opens.

    Args:
        model: a model with a `config`, as transformers has them. It stays as it is.
        what: the density of each kind that stays, ranked by L1 norms; a method that ranks filters, such as
            `methods.nisp(0.5)`; or one that ranks layers, `methods.depth(0.75)`: then whole layers go, those that stay
            move up, and the config says how many there are.
        example_inputs: what the model is called with, as in `secateur.shrink`.
        kinds: what may go: "units" (of perceptrons), "heads", "stream" (the width, where root mean squares norm it).
        batches, loss: what the method looks at.
        outputs: as in `secateur.shrink`.
        modes: as in `secateur.shrink`.
        timed: as in `secateur.shrink`.

    Returns:
        `Shrunk`: model, certificate and manifest. What a config cannot say stays, and a warning says so: fewer heads
        of the same width (BERT's computes the width from their number), another ε for the norms of the stream than
        for those of queries (Qwen3). `secateur.shrink` takes these, and `secateur.load` opens the result.

    Raises:
        SecateurError: no config, an unknown kind, or no config that makes the smaller model.
    """
    if not hasattr(getattr(model, "config", None), "to_dict"):
        raise SecateurError(
            f"`model` must be one of transformers, with a config, got {named(model)}. Use secateur.shrink."
        )
    if not kinds or not set(kinds) <= set(_KINDS):
        raise SecateurError(f"`kinds` must be some of {', '.join(_KINDS)}, got {tuple(kinds)}.")
    seen = list(batches) if batches is not None else None
    about = Terms(outputs=outputs, modes=tuple(modes), timed=timed)
    if isinstance(what, Method) and isinstance(what.structure, ResidualBlocks):
        return _of_layers(model, _asked(what, seen, loss), example_inputs, about)
    problem = ""
    for tried in _fewer(tuple(kinds)):
        made = draft(model, _asked(_of_kinds(what, tried), seen, loss), example_inputs, about)
        changes, problem = fitted(model, made.small, made.manifest, example_inputs)
        if changes is not None:
            shrunk = made.proved()
            for name, value in changes.items():
                setattr(shrunk.model.config, name, value)
            if tried != tuple(kinds):
                warnings.warn(_stay(model, kinds, tried), UserWarning, stacklevel=2)
            return shrunk
    raise SecateurError(f"`model`: no {type(model.config).__name__} makes the smaller model: {problem}. {_ELSE}")


def _asked(what: Method, batches: list[Batch] | None, loss: Loss | None) -> Asked:
    return Asked(what, "units", l1, None, 1, 1, batches, loss)


def _of_layers(model: nn.Module, asked: Asked, example_inputs: Any, about: Terms) -> Shrunk:
    """Whole layers go, and the others move up: what comes back is made by the config."""
    made = draft(model, asked, example_inputs, about)
    fresh, problem = shallower(model, made.small, made.manifest, example_inputs)
    if fresh is None:
        raise SecateurError(f"`model`: no {type(model.config).__name__} makes the smaller model: {problem}. {_ELSE}")
    return replace(made.proved(), model=fresh)


_ELSE = "secateur.shrink makes it smaller without a config that says so, and secateur.load opens that."


def _fewer(kinds: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All kinds that were asked for, and then fewer and fewer, should no config say that; units go in any case."""
    without = [(), ("stream",), ("heads",), ("stream", "heads")]
    found = [tuple(kind for kind in kinds if kind not in left) for left in without]
    return [each for each in dict.fromkeys(found) if each]


def _stay(model: nn.Module, kinds: Sequence[str], tried: Sequence[str]) -> str:
    left = [kind for kind in kinds if kind not in tried]
    return (
        f"all of {' and '.join(left)} stayed: {type(model.config).__name__} cannot say what is left of them. "
        f"kinds={tuple(tried)} says that you know; secateur.shrink takes more, and secateur.load opens the result."
    )


def _of_kinds(what: float | Method, kinds: Sequence[str]) -> Method:
    """The method, its units tied as the trace finds them, and those of these kinds alone."""
    method = what if isinstance(what, Method) else l1_filters(what, scope=layerwise())

    def which(group: Group) -> bool:
        return group.kind in kinds

    return replace(method, structure=channels(which=which, reduce=method.structure.reduce))
