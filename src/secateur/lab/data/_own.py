"""Data of one's own among those of the lab: four tensors, made by a function that a command line names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.lab.data._dataset import Raw
from secateur.lab.data._find import Source
from secateur.lab.data._sources import SOURCES
from secateur.lab.own import imported, is_own


def admit(name: str) -> None:
    """Let `load` know data of one's own, `package.module:factory`. Importing it runs its code.

    The factory takes no arguments and returns (train inputs, train classes, test inputs, test classes): inputs
    [n, channel, …], bytes 0 … 255 or floating point; classes [n], int64 from 0 on. Inputs are standardised per channel
    by the training set, and a validation set is cut off it, as with the lab's own data.

    Args:
        name: what they are called from here on.

    Raises:
        SecateurError: it cannot be imported, or does not return that.
    """
    made = imported(name)
    try:
        found = made() if callable(made) else made
    except Exception as problem:
        raise SecateurError(f"{name} raised {type(problem).__name__}: {problem}") from problem
    raw = _checked(name, found)

    def read(_: Mapping[str, bytes]) -> Raw:
        return raw

    SOURCES[name] = Source(
        name=name,
        title=name,
        shape=tuple(raw.train_x.shape[1:]),
        num_classes=len(raw.classes),
        note=f"Data of one's own, made by {name}.",
        read=read,
    )


def admitted() -> tuple[str, ...]:
    """Return the names that were admitted, for processes that have to admit them as well."""
    return tuple(name for name in SOURCES if is_own(name))


def _checked(name: str, found: Any) -> Raw:
    if not (isinstance(found, tuple | list) and len(found) == 4 and all(isinstance(t, Tensor) for t in found)):
        raise SecateurError(
            f"{name} must return four tensors (train inputs, train classes, test inputs, test classes), got "
            f"{type(found).__name__}{f' of {len(found)}' if isinstance(found, tuple | list) else ''}."
        )
    train_x, train_y, test_x, test_y = (tensor.detach().cpu() for tensor in found)
    for which, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if x.dim() < 2 or not (x.dtype == torch.uint8 or x.is_floating_point()):
            raise SecateurError(
                f"{name}: {which} inputs must be [n, channel, …], bytes or floats, got {list(x.shape)} of {x.dtype}."
            )
        if y.dtype != torch.int64 or y.shape != x.shape[:1] or not len(y) or int(y.min()) < 0:
            raise SecateurError(
                f"{name}: {which} classes must be {len(x)} of int64 from 0 on, got {list(y.shape)} of {y.dtype}."
            )
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise SecateurError(f"{name}: {which} inputs hold NaN or infinite numbers.")
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise SecateurError(
            f"{name}: test inputs must be as those for training, got {list(test_x.shape[1:])} of {test_x.dtype} beside "
            f"{list(train_x.shape[1:])} of {train_x.dtype}."
        )
    classes = tuple(str(each) for each in range(int(max(train_y.max(), test_y.max())) + 1))
    levels = 255 if train_x.dtype == torch.uint8 else 1
    return Raw(train_x, train_y, test_x, test_y, levels, classes)
