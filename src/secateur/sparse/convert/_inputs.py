"""Which shapes reach each layer: what `sparsify` times layers with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

#: What a model is called with: its only argument, several in a tuple, or arguments by name.
Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
Shape = tuple[int, ...]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model on its inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def shapes_of(model: nn.Module, inputs: Inputs) -> dict[str, Shape]:
    """Return the shape of the input that each leaf layer sees, the largest where it is called several times.

    A copy of the model runs once, in evaluation mode and without gradients; the model itself does not.

    Raises:
        SecateurError: the model does not run on these inputs.
    """
    probe = copy.deepcopy(model).eval()
    found: dict[str, Shape] = {}
    for path, module in probe.named_modules():
        if not any(True for _ in module.children()):
            module.register_forward_pre_hook(partial(_note, found, path), with_kwargs=True)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            call(probe, inputs)
    except Exception as problem:
        raise SecateurError(
            f"`example_inputs`: {type(model).__name__} does not run on them: {type(problem).__name__}: {problem}. Give "
            "what you would call the model with: a tensor, a tuple of arguments, or a mapping of them by name."
        ) from problem
    return found


def assumed(model: nn.Module, batch: int) -> Tensor | None:
    """Return inputs of `batch` samples for a model that begins with a linear layer; None where they cannot be told."""
    first: Any = model
    while type(first) is nn.Sequential and len(first):
        first = next(child for child in (*first, None) if not isinstance(child, nn.Flatten | nn.Identity))
    if not isinstance(first, nn.Linear) or first.weight.dtype is not torch.float32 or not first.weight.is_cpu:
        return None
    return torch.rand(batch, first.in_features, generator=torch.Generator().manual_seed(0))


def _note(found: dict[str, Shape], path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    x = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(x, Tensor) and x.numel() >= torch.Size(found.get(path, (0,))).numel():
        found[path] = tuple(x.shape)
