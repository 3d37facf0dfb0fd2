"""How each layer is used: what `sparsify` times layers with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        keys, values: shapes of the further inputs of an attention, if it attends to something else than its queries.
        weights: whether an attention's weights are asked for.

    >>> str(Use((8, 4), training=True)), str(Use((8, 4), training=True, first=True))
    ('training at 8 × 4', 'training at 8 × 4, first layer')
    >>> str(Use((8, 4), training=False, dtype=torch.bfloat16, autocast=torch.bfloat16))
    'inference at 8 × 4 bfloat16, autocast to bfloat16'
    >>> str(Use((2, 5, 4), training=False, keys=(2, 7, 4), weights=True))
    'inference at 2 × 5 × 4, keys 2 × 7 × 4, with weights'
    """

    shape: tuple[int, ...]
    training: bool
    first: bool = False
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    keys: tuple[int, ...] | None = None
    values: tuple[int, ...] | None = None
    weights: bool = False

    @property
    def reduced(self) -> bool:
        """Whether anything is computed with fewer bits than float32 has."""
        return self.autocast is not None or self.dtype is not torch.float32

    def __str__(self) -> str:
        text = f"{'training' if self.training else 'inference'} at {_by(self.shape)}"
        text += "" if self.dtype is torch.float32 else f" {_name(self.dtype)}"
        text += f", keys {_by(self.keys)}" if self.keys else ""
        text += f", values {_by(self.values)}" if self.values else ""
        text += (", with weights" if self.weights else "") + (", first layer" if self.first else "")
        return text + ("" if self.autocast is None else f", autocast to {_name(self.autocast)}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model on its inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def uses_of(model: nn.Module, inputs: Inputs) -> dict[str, Use]:
    """Return how each leaf layer and each attention is used, by its largest input where it is called several times.

    A copy of the model runs once, in evaluation mode; the model itself does not.

    Raises:
        SecateurError: the model does not run on these inputs.
    """
    probe = copy.deepcopy(model).eval()
    found: dict[str, Use] = {}
    for path, module in probe.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(partial(_note_attention, found, path, model.training), with_kwargs=True)
        elif not any(True for _ in module.children()):
            module.register_forward_pre_hook(partial(_note, found, path, model.training), with_kwargs=True)
    try:
        with torch.set_grad_enabled(model.training), torch.random.fork_rng(devices=[]), _without_fast_path():
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


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Keep torch's encoders from running as one operation, or on nested tensors, which no hook would see."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _note_attention(
    found: dict[str, Use], path: str, training: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    given = inspect.signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs)
    given.apply_defaults()
    query, key, value, weights = (given.arguments[name] for name in ("query", "key", "value", "need_weights"))
    if path in found and query.numel() < torch.Size(found[path].shape).numel():
        return
    keys = None if key is query and value is query else tuple(key.shape)
    values = None if value is key else tuple(value.shape)
    first = training and not (query.requires_grad or key.requires_grad or value.requires_grad)
    found[path] = Use(
        tuple(query.shape), training, first, query.dtype, autocast_to(query), keys, values, bool(weights)
    )  # fmt: skip


def _note(
    found: dict[str, Use], path: str, training: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    x = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(x, Tensor) and (path not in found or x.numel() >= torch.Size(found[path].shape).numel()):
        first = training and not x.requires_grad
        found[path] = Use(tuple(x.shape), training, first, x.dtype, autocast_to(x))
