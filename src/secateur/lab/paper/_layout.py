"""Cells and their records as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from secateur.lab.paper._cell import Cell
from secateur.lab.paper._record import Record
from secateur.lab.paper._verdict import Change, Verdict, change, verdict

NONE = "–"
_HEADS = ("best epoch", "seeds", "steps", "kept", "")


def lines(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out one line per cell: the paper's error, ours, the best epoch, and what it was run with.

    Where cells have dense twins, what pruning costs stands there too, the paper's and ours: Δ = sparse − dense.
    """
    twins = any(cell.dense for cell in cells)
    heads = ("", "", "paper", "ours", *(("paper's Δ", "our Δ") if twins else ()), *_HEADS)
    rows = [heads, ("---",) * 2 + ("--:",) * (len(heads) - 3) + ("---",)]
    for cell in cells:
        record = records.get(cell.name)
        both = (signed(cell.paper_change), cost(change(cell, records))) if twins else ()
        ours = NONE if record is None else spread(record)
        rows.append((cell.row, cell.column, _printed(cell), ours, *both, *_measured(cell, record)))
    return markdown(rows)


def grid(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out rows against columns: errors and the number of seeds."""
    title = "Test error after the last step, %, mean ± standard deviation (number of seeds):"
    return f"{title}\n\n{cross(cells, lambda cell: _error(cell, records))}"


def number(value: float | None, digits: int = 2) -> str:
    """Say a number, or a dash for none.

    >>> number(1.6), number(None)
    ('1.60', '–')
    """
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """Say a difference with its sign, or a dash for none.

    >>> signed(0.7), signed(-0.1), signed(None)
    ('+0.70', '-0.10', '–')
    """
    return NONE if value is None else f"{value:+.2f}"


def cost(found: Change | None) -> str:
    """Say what pruning costs with its standard error, in brackets where too few seeds stand behind it.

    >>> cost(Change(0.71, 0.06, 10)), cost(Change(-0.1, None, 1)), cost(None)
    ('+0.71 ± 0.06', '(-0.10)', '–')
    """
    if found is None:
        return NONE
    said = signed(found.points) + ("" if found.error is None else f" ± {found.error:.2f}")
    return said if found.judged else f"({said})"


def short(value: float) -> str:
    """Say a number with three digits, or all of those before its point.

    >>> short(0.0213), short(81.27), short(2345.6)
    ('0.0213', '81.3', '2,346')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plural(count: int, what: str) -> str:
    """Say how many there are of something.

    >>> plural(1, "seed"), plural(20, "seed")
    ('1 seed', '20 seeds')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


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


def _printed(cell: Cell) -> str:
    """Say the paper's error, with the deviation that stands beside it."""
    return number(cell.paper) + ("" if cell.paper_std is None else f" ± {cell.paper_std:.2f}")


def _measured(cell: Cell, record: Record | None) -> tuple[str, ...]:
    if record is None:
        return (*(NONE,) * 4, emphasised(Verdict.UNMEASURED))
    return (
        number(record.best_mean),
        str(len(record.seeds)),
        f"{record.steps:,}",
        f"{record.kept:,}",
        emphasised(verdict(cell, record)),
    )


def _error(cell: Cell, records: Mapping[str, Record]) -> str:
    record = records.get(cell.name)
    if record is None:
        return NONE
    outcome = verdict(cell, record)
    said = f" {emphasised(outcome)}" if outcome is Verdict.MISSED else ""
    return f"{spread(record)} ({len(record.seeds)}){said}"


def cross(cells: Sequence[Cell], show: Callable[[Cell], str], *, turned: bool = False) -> str:
    """Lay out what is said of each cell as a table of their rows against their columns; `turned`, the other way."""
    places = {((cell.column, cell.row) if turned else (cell.row, cell.column)): cell for cell in cells}
    columns = list(dict.fromkeys(column for _, column in places))
    rows: list[tuple[str, ...]] = [("", *columns), ("---", *("--:",) * len(columns))]
    for row in dict.fromkeys(row for row, _ in places):
        found = [places.get((row, column)) for column in columns]
        rows.append((row, *("" if cell is None else show(cell) for cell in found)))
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of text as a Markdown table; the second says how columns are aligned."""
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows)
