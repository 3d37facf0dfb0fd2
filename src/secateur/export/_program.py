"""A pruned model as a program of torch.export, dense and compared."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from secateur._base.arguments import require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.costing import Call, call_of
from secateur.export._compared import difference
from secateur.holding import held
from secateur.masks import unwrap
from secateur.sparse import densify


def exported(model: nn.Module, example_inputs: Any, *, dynamic_shapes: Any = None) -> ExportedProgram:
    """Return a pruned model as a program of `torch.export`, in eval mode, with its zeros in place.

    Held, shrunk and sparsified models alike. Sparse layers become the dense layers that they stand for, since other
    runtimes do not have their kernels; a shrunk model stays small. The program is run on the example and compared with
    the model before it is returned.

    Args:
        model: the model; it stays as it is.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of named ones.
        dynamic_shapes: which sizes may change, as `torch.export.export` takes it; None fixes them all to the example's.

    Returns:
        The program; `torch.export.save` writes it.

    Raises:
        SecateurError: the model does not run with these inputs or cannot be exported (the reason of torch is told), or
            the program computes something else.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> x = torch.zeros(1, 4)
    >>> program = exported(net, x)
    >>> torch.equal(program.module()(x), net(x))
    True
    """
    require_model(model, "exported(model, example_inputs)")
    call = call_of(example_inputs)
    return program_of(twin(model, call), call, dynamic_shapes)


def twin(model: nn.Module, call: Call) -> nn.Module:
    """Copy a model for others: dense, in eval mode, and without what holds its zeros; it has run on its example."""
    model = unwrap(model)
    catch_up(model)
    alone = densify(model).eval()
    for each in held(alone):
        each.release()
    answer(alone, call)
    return alone


def answer(model: nn.Module, call: Call) -> Any:
    """Run a model on its example, or say that it does not."""
    try:
        with torch.no_grad():
            return model(*call.inputs, **call.kwargs)
    except Exception as problem:  # whatever a user's forward raises
        raise SecateurError(
            f"`example_inputs` must be what the model is called with, but its forward raised "
            f"{type(problem).__name__}: {problem}. Several arguments go into a tuple, named ones into a mapping."
        ) from problem


def program_of(alone: nn.Module, call: Call, dynamic_shapes: Any) -> ExportedProgram:
    """Export a copy made by `twin`, and compare."""
    try:
        with warnings.catch_warnings():
            # Of a recurrent layer's second list of its weights; the comparison below finds out whether it mattered.
            warnings.filterwarnings("ignore", message=".*_flat_weights.* were assigned during export")
            program = torch.export.export(alone, call.inputs, dict(call.kwargs), dynamic_shapes=dynamic_shapes)
    except Exception as problem:  # torch raises a dozen kinds
        raise SecateurError(
            f"torch.export cannot export {type(alone).__name__}: {type(problem).__name__}: {_first_lines(problem)}"
        ) from problem
    with torch.no_grad():
        found = program.module()(*call.inputs, **call.kwargs)
    difference(answer(alone, call), found, "the exported program")
    return program


def _first_lines(problem: Exception) -> str:
    return " ".join(str(problem).split())[:500]
