"""Many experiments: side by side on equal terms, in one process, in several, or wherever a `Runner` takes them."""

from __future__ import annotations

from secateur.lab.comparing._compare import Comparison, Row, compare, deviation, grid, needed_first, rows
from secateur.lab.comparing._runners import (
    Outcomes,
    Places,
    Runner,
    at_least_one,
    one_by_one,
    processes,
    quiet,
    run_at,
)

__all__ = [
    "Comparison",
    "Outcomes",
    "Places",
    "Row",
    "Runner",
    "at_least_one",
    "compare",
    "deviation",
    "grid",
    "needed_first",
    "one_by_one",
    "processes",
    "quiet",
    "rows",
    "run_at",
]
