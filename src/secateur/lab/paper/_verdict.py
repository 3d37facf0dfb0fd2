"""How our numbers stand to a paper's: means against means, with what chance may do to both; and what pruning costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import hypot, sqrt

from secateur.lab.paper._cell import Cell
from secateur.lab.paper._record import Record

#: Seeds below which a mean is not judged: two runs say nothing of their own spread.
JUDGED_FROM = 3


class Verdict(StrEnum):
    """How our error stands to the paper's."""

    REACHED = "at or below"
    AGREES = "within tolerance"
    MISSED = "miss"
    FAILED = "failed"
    UNJUDGED = "not judged"
    UNMEASURED = "not measured"
    NOTHING = ""  # the paper prints no number to compare with


@dataclass(frozen=True)
class Change:
    """What pruning costs under one recipe: the sparse mean minus the dense one, in percentage points.

    Args:
        points: the difference; positive where sparse is worse.
        error: its standard error, √(s₁²/n₁ + s₂²/n₂); None where one of the two has a single run.
        seeds: the fewer of both.
    """

    points: float
    error: float | None
    seeds: int

    @property
    def judged(self) -> bool:
        """Whether there are runs enough on both sides to say anything."""
        return self.seeds >= JUDGED_FROM

    def no_worse(self, points: float) -> bool:
        """Whether it is at most `points`, two standard errors allowed."""
        return round(self.points - points - 2 * (self.error or 0.0), 2) <= 0


def verdict(cell: Cell, record: Record | None) -> Verdict:
    """Compare our mean error with the paper's: at or below it, within tolerance, or a miss.

    Ours may be above by `cell.points` and two standard errors of the difference, √(s²/n + s_p²/n_p), where the paper
    prints no deviation s_p that of ours alone. Fewer than three seeds, or runs shorter than the cell's, are not judged;
    a number that the paper prints and that we have of other data only is not measured. Compared is what is printed, the
    second decimal of a per cent. Where the paper shows a failure, failing agrees with it, and nothing else does. Where
    more weights stay than the paper keeps, it is a miss.
    """
    if record is None or (cell.paper is not None and not cell.comparable):
        return Verdict.UNMEASURED
    if record.mean is None:
        return Verdict.FAILED
    if cell.paper is None:
        return Verdict.NOTHING
    if too_many(cell, record):
        return Verdict.MISSED
    if len(record.errors) < JUDGED_FROM or record.steps < cell.experiment.recipe.steps:
        return Verdict.UNJUDGED
    ours = round(record.mean, 2)
    if cell.fails_from is not None:
        return Verdict.AGREES if ours >= cell.fails_from else Verdict.MISSED
    if ours <= cell.paper:
        return Verdict.REACHED
    of_paper = 0.0 if cell.paper_std is None else cell.paper_std / sqrt(cell.paper_seeds)
    allowed = cell.paper + cell.points + 2 * hypot(standard_error(record) or 0.0, of_paper)
    return Verdict.AGREES if ours <= round(allowed, 2) else Verdict.MISSED


def too_many(cell: Cell, record: Record) -> bool:
    """Tell whether more weights stay than the paper's error belongs to."""
    return cell.most_kept is not None and record.kept > cell.most_kept


def standard_error(record: Record) -> float | None:
    """Return the standard error of a record's mean, s/√n in per cent; None below two runs."""
    return None if record.std is None else record.std / sqrt(len(record.errors))


def change(cell: Cell, records: Mapping[str, Record]) -> Change | None:
    """Return the cost of pruning in a cell against its dense twin (`cell.dense`).

    None where there is no twin, where one of them did not finish, and where they took different numbers of steps.
    """
    sparse, dense = records.get(cell.name), records.get(cell.dense)
    if sparse is None or dense is None or sparse.mean is None or dense.mean is None or sparse.steps != dense.steps:
        return None
    errors = standard_error(sparse), standard_error(dense)
    error = None if errors[0] is None or errors[1] is None else hypot(errors[0], errors[1])
    return Change(sparse.mean - dense.mean, error, min(len(sparse.errors), len(dense.errors)))
