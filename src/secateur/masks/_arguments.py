"""The two arguments that most verbs of this package take, checked: a model and its masks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from secateur._base.errors import MaskError, SecateurError
from secateur.masks._masks import Masks

__all__ = ["require_masks", "require_model"]


def require_model(model: object, call: str) -> None:
    """Raise unless `model` is a module; `call` is how it is written right, `hold(model, masks)`."""
    if isinstance(model, nn.Module):
        return
    if isinstance(model, Optimizer):
        more = " The optimizer need not be passed: whichever steps the model's parameters is seen to."
    elif isinstance(model, type) and issubclass(model, nn.Module):
        more = f" That is the class; make one: {model.__name__}(…)."
    else:
        more = ""
    raise SecateurError(f"`model` must be an nn.Module, as in {call}, got {_named(model)}.{more}")


def require_masks(masks: object, call: str) -> None:
    """Raise unless `masks` are `Masks`; `call` is how it is written right, `hold(model, masks)`."""
    if isinstance(masks, Masks):
        return
    if isinstance(masks, Mapping):
        more = "Write secateur.Masks(…) around it: name → boolean tensor, True for what stays."
    else:
        more = "They are what secateur.prune returns, Masks.load reads, and Masks.from_zeros finds in a pruned model."
    raise MaskError(f"`masks` must be secateur.Masks, as in {call}, got {_named(masks)}. {more}")


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
