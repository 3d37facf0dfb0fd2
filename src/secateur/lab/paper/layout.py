"""Cells and their records as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from secateur.lab.compare import dense
from secateur.lab.experiment import DENSE
from secateur.lab.paper.cell import Cell
from secateur.lab.paper.record import Record, Verdict, verdict

NONE = "–"


def lines(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out one line per cell: the paper's error, ours, the best epoch, and what it took."""
    heads = ("", "", "paper", "ours", "best epoch", "seeds", "steps", "kept", "training", "dense / it", "")
    rows = [heads, ("---",) * 2 + ("--:",) * (len(heads) - 3) + ("---",)]
    for cell in cells:
        rows.append((cell.row, cell.column, number(cell.paper), *_measured(cell, cells, records)))
    return markdown(rows)


def grid(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out rows against columns three times: errors, seconds of training, and how many times dense that is."""
    parts = [
        ("Test error after the last step, %, mean ± standard deviation (number of seeds):", _error),
        ("Seconds of training, mean over the seeds (and how much longer dense took):", _cost),
    ]
    return "\n\n".join(f"{title}\n\n{_cross(cells, records, show)}" for title, show in parts)


def speed_up(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> float | None:
    """Return how many times longer the dense run of the same recipe took; None where either was not measured.

    Both are mean training seconds of runs of the same length, threads and machine, at different times.
    """
    own = records.get(cell.name)
    if own is None or own.training is None or cell.experiment.method == DENSE:
        return None
    twin = _content(dense(cell.experiment, seed=cell.experiment.seed))
    for other in cells:
        record = records.get(other.name)
        if _content(other.experiment) == twin and record is not None and record.training is not None:
            same = (record.steps, record.threads, record.machine) == (own.steps, own.threads, own.machine)
            return record.training / own.training if same else None
    return None


def number(value: float | None, digits: int = 2) -> str:
    """Say a number, or a dash for none.

    >>> number(1.6), number(None)
    ('1.60', '–')
    """
    return NONE if value is None else f"{value:.{digits}f}"


def spread(record: Record) -> str:
    """Say mean ± standard deviation of a record's errors, in per cent."""
    if record.mean is None:
        return "failed"
    return number(record.mean) if record.std is None else f"{record.mean:.2f} ± {record.std:.2f}"


def _content(experiment: object) -> object:
    return replace(experiment, seed=0)  # type: ignore[type-var]


def _measured(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> tuple[str, ...]:
    record = records.get(cell.name)
    if record is None:
        return (*(NONE,) * 7, str(Verdict.UNMEASURED))
    gain = speed_up(cell, cells, records)
    return (
        spread(record),
        number(record.best_mean),
        str(len(record.seeds)),
        f"{record.steps:,}",
        f"{record.kept:,}",
        NONE if record.training is None else f"{record.training:.3g} s",
        NONE if gain is None else f"{gain:.1f}×",
        str(verdict(cell, record)),
    )


def _error(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    record = records.get(cell.name)
    return NONE if record is None else f"{spread(record)} ({len(record.seeds)})"


def _cost(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    record = records.get(cell.name)
    if record is None or record.training is None:
        return NONE
    gain = speed_up(cell, cells, records)
    return f"{record.training:.3g}" + ("" if gain is None else f" ({gain:.1f}×)")


Show = Callable[[Cell, Sequence[Cell], Mapping[str, Record]], str]


def _cross(cells: Sequence[Cell], records: Mapping[str, Record], show: Show) -> str:
    columns = list(dict.fromkeys(cell.column for cell in cells))
    places = {(cell.row, cell.column): cell for cell in cells}
    rows: list[tuple[str, ...]] = [("", *columns), ("---", *("--:",) * len(columns))]
    for row in dict.fromkeys(cell.row for cell in cells):
        found = [places.get((row, column)) for column in columns]
        rows.append((row, *("" if cell is None else show(cell, cells, records) for cell in found)))
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of text as a Markdown table; the second says how columns are aligned."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
