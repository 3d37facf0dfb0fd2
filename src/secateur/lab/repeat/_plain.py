"""Frozen dataclasses as plain JSON and back, so that a value can be stored and named by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from secateur._base.errors import SecateurError, nearest


def plain(value: Any, *, labels: bool = True) -> Any:
    """Turn a frozen dataclass into JSON-ready data that holds its non-default fields only.

    A dataclass becomes `{"kind": "its name", field: value, …}`; fields equal to their default are left out,
    so that adding a field with a default changes nothing that was stored before. Whole floats become ints
    (1.0 and 1 are one value).

    Args:
        value: a dataclass of numbers, strings, enums, tuples and further dataclasses.
        labels: keep the fields declared with `compare=False`, which say what a value is called, not what it
            is.

    >>> from secateur.lab.experiment import Sgd
    >>> plain(Sgd(momentum=0.5))
    {'kind': 'sgd', 'momentum': 0.5}
    """
    if is_dataclass(value) and not isinstance(value, type):
        stored = [field for field in fields(value) if _is_stored(field, value, labels)]
        content = {field.name: plain(getattr(value, field.name), labels=labels) for field in stored}
        return {"kind": type(value).__name__.lower(), **content}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [plain(item, labels=labels) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def unplain(data: Any, kinds: Iterable[type]) -> Any:
    """Rebuild what `plain` wrote.

    Args:
        data: JSON data; every mapping in it carries a `kind`.
        kinds: the dataclasses that may occur; nothing else is ever built.

    Raises:
        SecateurError: for a kind or a field that is not known, with the nearest one; for a field that is missing, or
            holds something of another type.
    """
    known = {kind.__name__.lower(): kind for kind in kinds}
    return _build(data, known)


def digest(value: Any) -> str:
    """Return 8 hexadecimal digits that name a dataclass by its non-default fields.

    SHA-256 over canonical JSON: the same on every machine and in every Python, unlike `hash`.

    >>> from secateur.lab.experiment import Sgd
    >>> digest(Sgd()) == digest(Sgd(momentum=0.9))
    True
    """
    text = json.dumps(plain(value, labels=False), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_stored(field: Field[Any], value: Any, labels: bool) -> bool:
    if not field.compare and not labels:
        return False
    return field.default is MISSING or getattr(value, field.name) != field.default


def _build(data: Any, known: Mapping[str, type]) -> Any:
    if isinstance(data, list):
        return tuple(_build(item, known) for item in data)
    if not isinstance(data, dict):
        return data
    content = dict(data)
    name = str(content.pop("kind", ""))
    if name not in known:
        expected = ", ".join(sorted(known))
        raise SecateurError(f"`kind` must be one of {expected}, got {name!r}.{nearest(name, known)}")
    allowed = [field.name for field in fields(known[name])]
    for key in content:
        if key not in allowed:
            hint = nearest(key, allowed) or " Was it written by a newer Secateur?"
            raise SecateurError(f"a stored {name} has no field {key!r}.{hint}")
    built = {key: _build(item, known) for key, item in content.items()}
    _check_fields(known[name], built)
    return known[name](**built)


def _check_fields(kind: type, built: Mapping[str, Any]) -> None:
    """Refuse what a dataclass would take without a word, or with a traceback."""
    hints, word = get_type_hints(kind), kind.__name__.lower()
    for field in fields(kind):
        if field.name not in built and field.default is MISSING and field.default_factory is MISSING:
            raise SecateurError(f"a stored {word} needs the field {field.name!r}, which is missing.")
        if field.name in built and not _fits(built[field.name], hints[field.name]):
            raise SecateurError(f"`{field.name}` of a stored {word} cannot be {built[field.name]!r}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: as a type checker would say, but for whole numbers, which `plain` makes of 1.0."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        each = parts[:1] * len(value) if isinstance(value, tuple) and parts[1:] == (...,) else parts
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)
