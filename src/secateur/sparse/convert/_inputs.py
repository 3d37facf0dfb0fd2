"""How each layer is used: what `sparsify` times layers with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError

#: What a model is called with: its only argument, several in a tuple, or arguments by name.
Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True)
class Use:
    """How a layer is used: the shape of its input, whether it trains, and whether its input takes a gradient.

    >>> str(Use((8, 4), training=True)), str(Use((8, 4), training=True, first=True))
    ('training at 8 × 4', 'training at 8 × 4, first layer')
    """

    shape: tuple[int, ...]
    training: bool
    first: bool = False

    def __str__(self) -> str:
        mode = "training" if self.training else "inference"
        return f"{mode} at {' × '.join(map(str, self.shape))}{', first layer' if self.first else ''}"


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model on its inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def uses_of(model: nn.Module, inputs: Inputs) -> dict[str, Use]:
    """Return how each leaf layer is used, by its largest input where it is called several times.

    A copy of the model runs once, in evaluation mode; the model itself does not.

    Raises:
        SecateurError: the model does not run on these inputs.
    """
    probe = copy.deepcopy(model).eval()
    found: dict[str, Use] = {}
    for path, module in probe.named_modules():
        if not any(True for _ in module.children()):
            module.register_forward_pre_hook(partial(_note, found, path, model.training), with_kwargs=True)
    try:
        with torch.set_grad_enabled(model.training), torch.random.fork_rng(devices=[]):
            call(probe, inputs)
    except Exception as problem:  # whatever a user's forward raises: the inputs are what it was given
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


def _note(
    found: dict[str, Use], path: str, training: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    x = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(x, Tensor) and (path not in found or x.numel() >= torch.Size(found[path].shape).numel()):
        found[path] = Use(tuple(x.shape), training, first=training and not x.requires_grad)
