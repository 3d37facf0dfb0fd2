"""Cells and their records as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from secateur.lab.compare import dense
from secateur.lab.experiment import DENSE
from secateur.lab.paper.cell import Cell
from secateur.lab.paper.record import SEPARATOR, Record, Verdict, verdict

NONE = "–"


def lines(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out one line per cell: the paper's error, ours, the best epoch, and what it took."""
    heads = ("", "", "paper", "ours", "best epoch", "seeds", "steps", "kept", "training, s", "dense / it", "")
    rows = [heads, ("---",) * 2 + ("--:",) * (len(heads) - 3) + ("---",)]
    for cell in cells:
        rows.append((cell.row, cell.column, number(cell.paper), *_measured(cell, cells, records)))
    return markdown(rows)


def grid(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out rows against columns twice: errors, then seconds of training and how many times longer dense took."""
    parts = [
        ("Test error after the last step, %, mean ± standard deviation (number of seeds):", _error),
        ("Seconds of training, mean over the seeds (and how much longer dense took):", _cost),
    ]
    return "\n\n".join(f"{title}\n\n{_cross(cells, records, show)}" for title, show in parts)


def speed_up(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> float | None:
    """Return how many times longer the dense run of the same recipe took; None where that cannot be said.

    Both are mean training seconds of runs of the same length on the same machine with the same threads, at different
    times. Nothing is said where one is missing, or where the runs of a cell were not all on one machine.
    """
    own = records.get(cell.name)
    if own is None or not own.training or cell.experiment.method == DENSE:
        return None
    twin = dense(cell.experiment, seed=0)
    for other in cells:
        record = records.get(other.name)
        if replace(other.experiment, seed=0) == twin and record is not None and record.training is not None:
            return record.training / own.training if _on_equal_terms(record, own) else None
    return None


def _on_equal_terms(one: Record, other: Record) -> bool:
    """Whether the times of two records can be compared: all their runs on one machine, of one length and width."""
    first, second = ((r.steps, r.experiment.examples, r.threads, r.machine) for r in (one, other))
    return first == second and one.threads > 0 and SEPARATOR not in one.machine


def number(value: float | None, digits: int = 2) -> str:
    """Say a number, or a dash for none.

    >>> number(1.6), number(None)
    ('1.60', '–')
    """
    return NONE if value is None else f"{value:.{digits}f}"


def seconds(value: float | None) -> str:
    """Say a time with three digits, or a dash for none.

    >>> seconds(0.0213), seconds(81.27), seconds(2345.6)
    ('0.0213', '81.3', '2,346')
    """
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(record: Record) -> str:
    """Say mean ± standard deviation of a record's errors, in per cent."""
    if record.mean is None:
        return "failed"
    return number(record.mean) if record.std is None else f"{record.mean:.2f} ± {record.std:.2f}"


def emphasised(outcome: Verdict) -> str:
    """Say a verdict, in bold where it is bad.

    >>> emphasised(Verdict.MISSED), emphasised(Verdict.REACHED)
    ('**miss**', 'at or below')
    """
    return f"**{outcome}**" if outcome in (Verdict.MISSED, Verdict.FAILED) else str(outcome)


def _measured(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> tuple[str, ...]:
    record = records.get(cell.name)
    if record is None:
        return (*(NONE,) * 7, emphasised(Verdict.UNMEASURED))
    gain = speed_up(cell, cells, records)
    return (
        spread(record),
        number(record.best_mean),
        str(len(record.seeds)),
        f"{record.steps:,}",
        f"{record.kept:,}",
        seconds(record.training),
        NONE if gain is None else f"{gain:.1f}×",
        emphasised(verdict(cell, record)),
    )


def _error(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    record = records.get(cell.name)
    if record is None:
        return NONE
    outcome = verdict(cell, record)
    said = f" {emphasised(outcome)}" if outcome is Verdict.MISSED else ""
    return f"{spread(record)} ({len(record.seeds)}){said}"


def _cost(cell: Cell, cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    record = records.get(cell.name)
    if record is None or record.training is None:
        return NONE
    gain = speed_up(cell, cells, records)
    return seconds(record.training) + ("" if gain is None else f" ({gain:.1f}×)")


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
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows)
