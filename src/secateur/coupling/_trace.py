"""One forward, and what is coupled in it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError, nearest
from secateur.coupling._coupling import Coupling, coupled
from secateur.coupling._rms import find_rms
from secateur.coupling._tracer import Calls, Compute, Step, Tracer
from secateur.coupling.attention import hold_own_widths
from secateur.coupling.copies import moved, on_meta, running, undisturbed
from secateur.coupling.numbers import marked
from secateur.coupling.rules import Book, Place

__all__ = ["Outputs", "follow", "steps_of", "tensors_of", "trace"]

#: What may be cut although it changes the function, if one says so.
INEXACT = ("layer_norm", "attention_scale")

#: From what the model returns to the part of it that must keep its shape.
Outputs = Callable[[Any], Any]


def trace(
    model: nn.Module,
    *example_inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
    inexact: Sequence[str] = (),
) -> Coupling:
    """Find out what must go together when a part of the model goes.

    Runs one forward of a copy on meta tensors, where nothing is computed (or, where the model cannot run there, of a
    real copy), with a label for each index of each dimension of every parameter. A rule for each operation unites the
    labels that it ties together, and freezes those that cannot go. An operation without a rule freezes all it touches
    and is listed in `unknown`.

    Args:
        model: the model; it stays as it is, and so do its modes, its hooks and the random generators.
        *example_inputs: what its forward is called with. Only their shapes matter.
        kwargs: what it is called with by name.
        outputs: picks from what the model returns the part that must keep its shape; None keeps all of it.
        inexact: what may go although it changes the function: "layer_norm" averages over fewer entries then,
            "attention_scale" is 1/√width of another width.

    Returns:
        The coupling; `print` it for a summary.

    Raises:
        SecateurError: `model` is no module, or does not run with these inputs; an unknown name in `inexact`.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> for group in trace(net, torch.zeros(1, 4)).groups:
    ...     print(group)
    0.weight[0]: 3 units
    """
    require_model(model, "coupling.trace(model, *example_inputs)")
    refuse_sparsified(model, "`trace`")
    catch_up(model)
    named = dict(kwargs or {})
    for name in inexact:
        if name not in INEXACT:
            raise SecateurError(f"`inexact` knows {', '.join(INEXACT)}, got {name!r}.{nearest(name, INEXACT)}")
    try:
        return follow(model, example_inputs, named, outputs=outputs, inexact=inexact)
    except Exception:  # it looks at values, or holds tensors of its own: what is wrong for good is wrong again below
        pass
    try:
        return follow(model, example_inputs, named, outputs=outputs, inexact=inexact, meta=False)
    except SecateurError:
        raise
    except Exception as error:
        raise SecateurError(
            f"`example_inputs` must be what the model is called with, but its forward raised {type(error).__name__}: "
            f"{error}. Several arguments go in one by one, named ones in a mapping."
        ) from error


def follow(
    model: nn.Module,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    outputs: Outputs | None = None,
    inexact: Sequence[str] = (),
    meta: bool = True,
    compute: Compute | None = None,
) -> Coupling:
    """Trace without checks, and let the model's own errors through.

    Args:
        model: the model.
        inputs: by position.
        kwargs: by name.
        outputs: as in `trace`.
        inexact: as in `trace`.
        meta: whether to run on meta tensors.
        compute: what runs each operation; None runs it as it is.
    """
    norms = find_rms(model)
    twin = on_meta(model) if meta else copy.deepcopy(model)
    args, named = (moved(inputs, "meta"), moved(dict(kwargs), "meta")) if meta else (inputs, dict(kwargs))
    hold_own_widths(twin)
    tensors: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in [*twin.named_parameters(remove_duplicate=False), *twin.named_buffers(remove_duplicate=False)]:
        tensors.setdefault(id(tensor), (tensor, []))[1].append(name)
    book = Book([(tensor, tuple(names)) for tensor, names in tensors.values()], norms, inexact)
    tracer = Tracer(twin, book, compute)
    alone = undisturbed(model), running(twin, tracer.stack), torch.inference_mode(), marked(twin, book.uses)
    with contextlib.ExitStack() as stack:
        for each in (*alone, Calls(tracer), tracer):
            stack.enter_context(each)
        out = twin(*args, **named)
    asked = tensors_of(out if outputs is None else outputs(out))
    tracer.living.forget_idle(book.labels, asked)
    _protect(book, asked)
    scaled = tracer.queries.scaled()
    book.tie_sizes()
    return coupled(book, tracer.steps, scaled, meta=meta)


def steps_of(
    model: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[list[Step], Exception | None]:
    """Run a model and return its operations, and what ended the run early.

    Args:
        model: a copy that nobody else uses; where its parameters are on meta, nothing is computed.
        inputs: by position.
        kwargs: by name.
    """
    tracer = Tracer(model, Book([]), labelled=False)
    meta = any(parameter.is_meta for parameter in model.parameters())
    args, named = (moved(inputs, "meta"), moved(dict(kwargs), "meta")) if meta else (inputs, dict(kwargs))
    try:
        with undisturbed(model), running(model, tracer.stack), torch.inference_mode(), tracer:
            model(*args, **named)
    except Exception as error:
        return tracer.steps, error
    return tracer.steps, None


def tensors_of(output: Any) -> list[Tensor]:
    """List the tensors in what a model returns: in lists, tuples, mappings, dataclasses and objects."""
    leaves = tree_leaves(output)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if found:
        return found
    inside = [vars(leaf) for leaf in leaves if hasattr(leaf, "__dict__")]
    return [leaf for each in inside for leaf in tree_leaves(each) if isinstance(leaf, Tensor)]


def _protect(book: Book, outputs: Sequence[Tensor]) -> None:
    for tensor in outputs:
        for ids in book.rows(tensor):
            book.freeze(ids, "is an output of the model", Place("output", "", "its return"))
    for name, rows in book.unused().items():
        for ids in rows:
            book.freeze(ids, f"{name} is not used in this forward", Place("none", "", "no line"))
