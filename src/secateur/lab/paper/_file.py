"""The file in which the repository keeps what a paper prints and what came out here, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from secateur.lab.paper._cell import Cell
from secateur.lab.paper._record import Record, Records, current_records
from secateur.lab.paper._verdict import change, verdict
from secateur.lab.repeat import damaged, read_json, write_json

RECORD_FORMAT = "secateur.expected/1"


def write_records(path: Path, cells: Iterable[Cell], records: Records) -> None:
    """Write a table's expectations and outcomes, cell by cell, atomically."""
    shown = list(cells)
    now = current_records(shown, records)
    content = [
        _told(cell, now) | ({"ours": records[cell.name].to_json()} if cell.name in records else {}) for cell in shown
    ]
    write_json(path, {"format": RECORD_FORMAT, "cells": content})


def _told(cell: Cell, records: Records) -> dict[str, Any]:
    """Return what is expected of a cell, how it stands, and what pruning costs in it where there is a dense twin."""
    told = {"cell": cell.name, "paper": cell.paper, "points": cell.points, "why": cell.why}
    told["verdict"] = str(verdict(cell, records.get(cell.name)))
    if cell.fails_from is not None:
        told["fails_from"] = cell.fails_from
    cost = change(cell, records)
    if cost is not None:
        error = None if cost.error is None else round(cost.error, 3)
        told["change"] = {"points": round(cost.points, 3), "error": error, "paper": cell.paper_change}
    return told


def read_records(path: Path) -> dict[str, Record]:
    """Read the outcomes back, by cell name; none where there is no file.

    Raises:
        ArtefactError: the file is damaged, or is no such file.
    """
    if not path.exists():
        return {}
    content = read_json(path, kind=RECORD_FORMAT)
    try:
        cells = [dict(entry) for entry in content["cells"]]
        return {str(entry["cell"]): Record.from_json(entry["ours"]) for entry in cells if "ours" in entry}
    except (KeyError, TypeError, ValueError) as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None
