"""One number of a paper as an experiment, and how long it is run for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from secateur.errors import SecateurError
from secateur.lab.experiment import Experiment
from secateur.lab.recipe import shortened

#: How far above the paper's error ours may be and still agree with it, in percentage points, if nothing else is said.
POINTS = 0.3


@dataclass(frozen=True)
class Cell:
    """One number of a table, or one point of a figure.

    Args:
        row, column: where it stands; together they name it within its table.
        experiment: what is run for it, at the paper's length; its seed is the first of several.
        paper: the error that the paper prints, in per cent; None where it prints none.
        points: how far above the paper's error ours may be, in percentage points; two of our standard deviations are
            allowed in any case.
        why: the reason for this tolerance, or the cause of a miss.
        quick: steps of a run that only shows that everything works.
        quick_examples: examples of each data set in such a run; 0 means all.
    """

    row: str
    column: str
    experiment: Experiment
    paper: float | None = None
    points: float = POINTS
    why: str = ""
    quick: int = 540
    quick_examples: int = 0

    @property
    def name(self) -> str:
        """Row and column in one text, which `only` patterns are matched against."""
        return f"{self.row} · {self.column}"


@dataclass(frozen=True)
class Length:
    """How much of a paper's work is done.

    Args:
        seeds: runs per cell, with the seeds 0 … seeds − 1.
        steps: squeeze every run to so many steps, its schedule along; None means the paper's length.
        quick: run each cell's own few steps instead, on its own few examples.

    Raises:
        SecateurError: fewer than one seed, or both `steps` and `quick`.
    """

    seeds: int
    steps: int | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SecateurError(f"`seeds` must be at least 1, got {self.seeds}.")
        if self.quick and self.steps is not None:
            raise SecateurError(f"`quick` chooses the steps itself: leave out `steps`, got {self.steps}.")

    def of(self, cell: Cell) -> tuple[Experiment, ...]:
        """Return the experiments of a cell, one per seed."""
        wanted = cell.experiment
        steps = cell.quick if self.quick else self.steps
        if steps is not None and steps != wanted.recipe.steps:
            wanted = replace(wanted, recipe=shortened(wanted.recipe, steps))
        if self.quick and cell.quick_examples:
            wanted = replace(wanted, examples=cell.quick_examples)
        return tuple(replace(wanted, seed=wanted.seed + number) for number in range(self.seeds))


def order(cells: Iterable[Cell], length: Length) -> list[Experiment]:
    """Return the experiments of all cells, each once, seed by seed: what is there early covers the whole table.

    Experiments of one seed share the split of the data, which is then made once.
    """
    columns = [length.of(cell) for cell in cells]
    return list(dict.fromkeys(experiment for one_seed in zip(*columns, strict=True) for experiment in one_seed))


def only(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Return the cells whose name matches one of the patterns (`*`, `?`, `[abc]`; upper and lower case are one).

    Raises:
        SecateurError: nothing matches; the message lists some names.
    """
    wanted = [f"*{pattern.lower()}*" for pattern in patterns]
    found = [cell for cell in cells if not wanted or any(fnmatchcase(cell.name.lower(), one) for one in wanted)]
    if cells and not found:
        known = "; ".join(cell.name for cell in cells[:6])
        raise SecateurError(f"`only` matches no cell, got {', '.join(map(repr, patterns))}. Cells are: {known}; …")
    return found
