"""Where users keep integers: their modules, and the plain config objects in them."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.coupling.numbers._number import Attribute, Number, Uses

__all__ = ["Holder", "marked"]

_NO_HOLDERS = (nn.Module, torch.Tensor, type, types.FunctionType, types.MethodType, types.ModuleType)


@dataclass(frozen=True)
class Holder:
    """An object that may hold integers of the user's.

    Attributes:
        path: of the module.
        inner: the module's attribute that holds the object; "" is the module itself.
        held: the object.
    """

    path: str
    inner: str
    held: Any


def _holders(model: nn.Module) -> Iterator[Holder]:
    """Yield modules that are not torch's, and plain objects with attributes that any module holds."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not _is_of_torch(module):
            yield Holder(path, "", module)
        for name, value in list(vars(module).items()):
            plain = hasattr(value, "__dict__") and not isinstance(value, _NO_HOLDERS)
            if plain and not name.startswith("_") and id(value) not in seen and not _is_of_torch(value):
                seen.add(id(value))
                yield Holder(path, name, value)


def _is_of_torch(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "torch"


@contextlib.contextmanager
def marked(model: nn.Module, uses: Uses) -> Iterator[None]:
    """Make every plain int attribute of a user's module a `Number`, for the time of a trace.

    Args:
        model: a copy that nobody else uses.
        uses: where uses of the values are noted.
    """
    saved: list[tuple[dict[str, Any], str, int]] = []
    try:
        for holder in _holders(model):
            own = vars(holder.held)
            for name, value in list(own.items()):
                if type(value) is int and value > 1 and not name.startswith("_"):
                    saved.append((own, name, value))
                    own[name] = Number(value, Attribute(holder.path, holder.inner, name, value), uses)
        yield
    finally:
        for own, name, value in saved:
            own[name] = value
