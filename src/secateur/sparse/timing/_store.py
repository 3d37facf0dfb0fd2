"""What was measured once on this machine is kept in JSON files in `$SECATEUR_CACHE` (or `~/.cache/secateur`)."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from secateur._base.errors import MeasurementsWarning
from secateur._base.files import write_whole
from secateur._base.text import shown

Found = TypeVar("Found")

_LARGEST = 1 << 24  # bytes; an entry has some five hundred

#: What was measured, by the names of its fields: type, least, most.
_FIELDS: Mapping[str, tuple[type | tuple[type, ...], float, float]] = {
    "onednn": (bool, 0, 1),
    "size": (int, 1, 1 << 40),
    "batch": (int, 1, 1 << 40),
    "density": ((int, float), 0, 1),
    "convolution": ((int, float), 0, 1),
    **dict.fromkeys(("first", "second", "ratio", "spread"), ((int, float), 0, 1e9)),
}
_WORDS = ("day", "dense")


def cache_file(name: str) -> Path:
    """Return where measurements are kept, in files of several names."""
    folder = os.environ.get("SECATEUR_CACHE")
    return (Path(folder) if folder else Path.home() / ".cache" / "secateur") / name


def remembered(
    path: Path, key: str, measure: Callable[[], Found], *, write: Callable[[Found], Any], read: Callable[[Any], Found]
) -> Found:
    """Return what the file holds under a key, or measure and write it there.

    Args:
        path: the JSON file, a dictionary; a damaged one, or a damaged entry, is written anew.
        key: of the entry.
        measure: finds the answer.
        write: the answer as JSON values; None where it is not worth remembering.
        read: from JSON values; raises KeyError, TypeError or ValueError where they are not an answer. Numbers that are
            no measurement (not finite, a negative density, a batch of 0) do not get to it.

    Warns:
        MeasurementsWarning: the file, or its entry, is damaged or not one of these.
    """
    try:
        known = _entries(path)
        if key in known:
            _require_measurements(known[key])
            return read(known[key])
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as problem:
        warnings.warn(
            f"{shown(path)} is not what was measured here ({type(problem).__name__}: {shown(problem)}): what is faster "
            "on this machine is measured again, and written there.",
            MeasurementsWarning,
            stacklevel=3,
        )
    found = measure()
    written = write(found)
    if written is None:
        return found
    known = entries(path) | {key: written}  # read again: other processes write as well
    replace_entries(path, known)
    return found


def replace_entries(path: Path, known: Mapping[str, Any]) -> None:
    """Write these entries in place of what the file holds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(known, indent=1).encode())
    except (OSError, ValueError):
        pass  # a read-only home, or what is there cannot be kept: measured again by the next process


def _entries(path: Path) -> dict[str, Any]:
    """Read the file; nothing where there is none that can be read.

    Raises:
        ValueError: it is damaged, or something else.
    """
    try:
        if not path.is_file():
            return {}  # not measured yet; or a pipe, which would be waited for
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        found = json.loads(path.read_bytes())
    except OSError:
        return {}
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def entries(path: Path) -> dict[str, Any]:
    """Return everything that the file holds, of other machines too; nothing of a missing or damaged one."""
    try:
        return _entries(path)
    except ValueError:
        return {}


def _require_measurements(entry: Any, name: str = "entry") -> None:
    """Refuse what no measurement gives: a table of such numbers would be obeyed without a word.

    Raises:
        ValueError: naming the field.
    """
    if isinstance(entry, dict):
        for key, value in entry.items():
            _require_measurements(value, str(key))
    elif isinstance(entry, list):
        for value in entry:
            _require_measurements(value, name)
    elif not (name in _WORDS and isinstance(entry, str)):
        kind, least, most = _FIELDS.get(name, (bool, 0, 0))
        fits = isinstance(entry, kind) and isinstance(entry, bool) == (kind is bool)
        if not (fits and least <= entry <= most):  # nor is NaN
            raise ValueError(f"`{name}` cannot be {entry!r}")
