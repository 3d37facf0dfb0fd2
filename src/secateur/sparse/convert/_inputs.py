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
from secateur.sparse.calls import autocast_to

#: What a model is called with: its only argument, several in a tuple, or arguments by name.
Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True)
class Use:
    """How a layer is used: shape and type of its input, whether it trains, and whether its input takes a gradient.

    Attributes:
        autocast: the type that `torch.autocast` casts to; None where it is off.

    >>> str(Use((8, 4), training=True)), str(Use((8, 4), training=True, first=True))
    ('training at 8 × 4', 'training at 8 × 4, first layer')
    >>> str(Use((8, 4), training=False, dtype=torch.bfloat16, autocast=torch.bfloat16))
    'inference at 8 × 4 bfloat16, autocast to bfloat16'
    """

    shape: tuple[int, ...]
    training: bool
    first: bool = False
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None

    @property
    def reduced(self) -> bool:
        """Whether anything is computed with fewer bits than float32 has."""
        return self.autocast is not None or self.dtype is not torch.float32

    def __str__(self) -> str:
        mode = "training" if self.training else "inference"
        kind = "" if self.dtype is torch.float32 else f" {_name(self.dtype)}"
        cast = "" if self.autocast is None else f", autocast to {_name(self.autocast)}"
        return f"{mode} at {' × '.join(map(str, self.shape))}{kind}{', first layer' if self.first else ''}{cast}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
        first = training and not x.requires_grad
        found[path] = Use(tuple(x.shape), training, first, x.dtype, autocast_to(x))
