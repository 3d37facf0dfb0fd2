"""What was measured once on this machine is kept in JSON files in `$SECATEUR_CACHE` (or `~/.cache/secateur`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")


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
        write: the answer as JSON values.
        read: from JSON values; raises KeyError, TypeError or ValueError where they are not an answer.
    """
    try:
        return read(entries(path)[key])
    except (KeyError, TypeError, ValueError):
        found = measure()
    known = entries(path) | {key: write(found)}  # read again: other processes write as well
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError:
        pass  # a read-only home: measured again by the next process
    return found


def entries(path: Path) -> dict[str, Any]:
    """Return everything that the file holds; nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # not measured yet, or damaged
    return found if isinstance(found, dict) else {}
