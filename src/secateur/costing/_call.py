"""What a model is called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur._base.errors import SecateurError

__all__ = ["Call", "call_of", "require_call"]


@dataclass(frozen=True, eq=False)
class Call:
    """What the model is called with: by position, and by name."""

    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def tensors(self) -> list[Tensor]:
        """List the tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.inputs, dict(self.kwargs))) if isinstance(leaf, Tensor)]


def call_of(example_inputs: Any) -> Call:
    """Read example inputs: a tensor, a tuple of arguments, or a mapping of named ones."""
    if isinstance(example_inputs, Mapping):
        return Call((), dict(example_inputs))
    return Call(example_inputs if isinstance(example_inputs, tuple) else (example_inputs,), {})


def require_call(model: nn.Module, call: Call, problem: Exception | None) -> None:
    """Raise where a model did not run with its example inputs."""
    if problem is not None:
        raise SecateurError(
            f"`example_inputs` must be what the model is called with, but its forward raised {type(problem).__name__}: "
            f"{problem}. Several arguments go into a tuple, named ones into a mapping."
        ) from problem


def on_device(model: nn.Module) -> torch.device:
    """Return where a model computes: the device of its first tensor, the CPU where it has none."""
    first = next((t for t in (*model.parameters(), *model.buffers())), None)
    return torch.device("cpu") if first is None else first.device
