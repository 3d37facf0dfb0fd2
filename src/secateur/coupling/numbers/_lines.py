"""Which line of the user's code is running."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

__all__ = ["user_line"]

_OURS = tuple(str(Path(__file__).resolve().parents[2] / room) for room in ("coupling", "costing", "shrinking"))
_TORCH = str(Path(torch.__file__).resolve().parent)
_known: dict[str, bool] = {}


def user_line() -> str:
    """Return `file:line` of the innermost frame that is neither torch's nor of this room; "?" if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if _is_users(name):
            return f"{name.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _is_users(name: str) -> bool:
    if name not in _known:
        hidden = name.startswith(("<", "@")) or "/beartype/" in name or "/jaxtyping/" in name
        # What is installed beside torch is the user's too: a model of torchvision has lines that are worth a name.
        _known[name] = not (hidden or name.startswith((*_OURS, _TORCH)) or name.endswith("typecheck.py"))
    return _known[name]
