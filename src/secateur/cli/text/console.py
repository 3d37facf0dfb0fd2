"""What the commands write: tables and sentences on stdout, problems on stderr, JSON alone when asked for.

Names of files and tensors may come from strangers: what a terminal would obey is written out, not sent.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur._base.text import shown

__all__ = [
    "Table",
    "complain",
    "duration",
    "emit",
    "percent",
    "remark",
    "say",
    "short",
    "show",
    "shown",
    "size",
    "spread",
]


@dataclass(frozen=True)
class Table:
    """Rows of text under headings. A column whose heading starts with ">" is flushed right."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def add(self, *cells: object) -> None:
        """Append one row; None is shown as a dash."""
        self.rows.append(tuple("–" if cell is None else shown(cell) for cell in cells))


def show(table: Table) -> None:
    """Write a table: through rich on a terminal that has it, as plain columns elsewhere.

    On a terminal too narrow for its numbers, each row becomes a paragraph: no number is broken.
    """
    if sys.stdout.isatty() and _least_width(table) > shutil.get_terminal_size().columns:
        _paragraphs(table)
    elif not (sys.stdout.isatty() and _rich_table(table)):
        _plain_table(table)
    for note in table.notes:
        say(note)


def say(text: str = "") -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{shown(text, lines=True)}\n")


def complain(text: str) -> None:
    """Write a problem to stderr, in red on a terminal."""
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{red}secateur:{plain} {shown(text, lines=True)}\n")


def remark(text: str) -> None:
    """Write to stderr how something goes."""
    sys.stderr.write(f"secateur: {shown(text, lines=True)}\n")


def emit(content: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def percent(fraction: float | None, digits: int = 2) -> str:
    """Say a fraction as a percentage.

    >>> percent(0.0205)
    '2.05 %'
    """
    return "–" if fraction is None else f"{fraction * 100:.{digits}f} %"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Say mean ± sample standard deviation of fractions, in percent; the mean alone for one value.

    >>> spread([0.02, 0.03])
    '2.50 ± 0.71 %'
    """
    from statistics import mean, stdev

    if len(values) < 2:
        return percent(values[0] if values else None, digits)
    return f"{mean(values) * 100:.{digits}f} ± {stdev(values) * 100:.{digits}f} %"


def size(count: float) -> str:
    """Say a number of bytes.

    >>> size(1_066_440)
    '1.07 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float | None) -> str:
    """Say a time span.

    >>> duration(0.25), duration(75), duration(7300)
    ('0.25 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short(seconds: float | None) -> str | None:
    """Say a time under a second.

    >>> short(0.00123), short(4.5e-5)
    ('1.23 ms', '45 µs')
    """
    if seconds is None:
        return None
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _rich_table(table: Table) -> bool:
    try:
        from rich import box
        from rich import table as drawn
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    grid = drawn.Table(title=table.title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in table.columns:
        number = name.startswith(">")
        grid.add_column(name.removeprefix(">"), justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout).print(grid)
    return True


def _least_width(table: Table) -> int:
    """How wide a table is at least: numbers whole, texts folded down to 16 characters, two blanks beside each."""
    widths = [
        [len(cell) for cell in cells]
        for cells in zip(*[[name.removeprefix(">") for name in table.columns], *table.rows], strict=True)
    ]
    wanted = [
        max(each) if name.startswith(">") else min(16, max(each))
        for name, each in zip(table.columns, widths, strict=True)
    ]
    return sum(wanted) + 3 * len(wanted)


def _paragraphs(table: Table) -> None:
    heads = [name.removeprefix(">") for name in table.columns]
    if table.title:
        say(table.title)
    for row in table.rows:
        say(row[0])
        for head, cell in zip(heads[1:], row[1:], strict=True):
            say(f"  {head:<{max(map(len, heads))}}  {cell}")


def _plain_table(table: Table) -> None:
    heads = tuple(name.removeprefix(">") for name in table.columns)
    widths = [max(len(row[column]) for row in [heads, *table.rows]) for column in range(len(heads))]
    if table.title:
        say(table.title)
    for row in [heads, tuple("─" * width for width in widths), *table.rows]:
        cells = [
            cell.rjust(width) if name.startswith(">") else cell.ljust(width)
            for cell, width, name in zip(row, widths, table.columns, strict=True)
        ]
        say("  ".join(cells).rstrip())
