"""Warnings that point to the user's line, however deep in this package they are found out."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("secateur", "torch")


def warn(message: str, category: type[Warning]) -> None:
    """Warn as if the nearest caller outside this package and torch had done so."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
