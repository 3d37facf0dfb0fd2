"""One number of a paper as an experiment, and how long it is run for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from secateur._base.errors import SecateurError
from secateur.lab.experiment import Experiment, shortened

#: How far above the paper's error ours may be and still agree with it, in percentage points, if nothing else is said.
POINTS = 0.1

_NAMED = 6  # cells that an error lists


@dataclass(frozen=True)
class Cell:
    """One number of a table, or one point of a figure.

    Args:
        row, column: where it stands; together they name it within its table.
        experiment: what is run for it, at the paper's length; its seed is the first of several.
        paper: the error that the paper prints, in per cent; None where it prints none.
        paper_std, paper_seeds: the standard deviation printed beside it, and over how many runs; None where none is.
        paper_change: what the paper says pruning costs, sparse minus dense in percentage points; None where it
            says nothing.
        dense: the name of the cell of the same table that is this one's dense twin, under the same recipe.
        comparable: whether our data are the paper's.
        counts: whether the paper's number is counted by this cell; a number that is measured under several recipes is
            counted once, by the recipe that the paper prints.
        points: how far above the paper's error ours may be, in percentage points; two standard errors are allowed
            beside.
        fails_from: where the paper shows a failure: errors from here on agree with it, smaller ones are misses.
        most_kept: how many weights may stay for the paper's error to be met; with more it is a miss. None: any number.
        why: the reason for this tolerance, or the cause of a miss.
        quick: steps of a run that only shows that everything works, or all where they are fewer.
        quick_examples: examples of each data set in such a run; 0 means all.
    """

    row: str
    column: str
    experiment: Experiment
    paper: float | None = None
    paper_std: float | None = None
    paper_seeds: int = 1
    paper_change: float | None = None
    dense: str = ""
    comparable: bool = True
    counts: bool = True
    points: float = POINTS
    fails_from: float | None = None
    most_kept: int | None = None
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
        seeds: runs per cell, counted up from the seed of its experiment.
        steps: squeeze or stretch every run to so many steps, its schedule along; None means the paper's length.
        quick: run each cell's own few steps instead, on its own few examples.
        bf16: train in bfloat16 (`Experiment.bf16`); a cell that says so itself does in any case.

    Raises:
        SecateurError: fewer than one seed or step, or both `steps` and `quick`.
    """

    seeds: int
    steps: int | None = None
    quick: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SecateurError(f"`seeds` must be at least 1, got {self.seeds}.")
        if self.steps is not None and self.steps < 1:
            raise SecateurError(f"`steps` must be at least 1, got {self.steps}.")
        if self.quick and self.steps is not None:
            raise SecateurError(f"`quick` chooses the steps itself: leave out `steps`, got {self.steps}.")

    def of(self, cell: Cell) -> tuple[Experiment, ...]:
        """Return the experiments of a cell, one per seed."""
        wanted = cell.experiment
        steps, examples = self.steps or wanted.recipe.steps, wanted.examples
        if self.quick:
            steps, examples = min(cell.quick, steps), cell.quick_examples or examples
        first = lasting(wanted, steps=steps, examples=examples, bf16=self.bf16 or wanted.bf16)
        return tuple(replace(first, seed=first.seed + number) for number in range(self.seeds))


def lasting(experiment: Experiment, *, steps: int, examples: int, bf16: bool) -> Experiment:
    """Return the experiment as it is run: with so many steps, its schedule scaled along, on so many examples of each
    set (0: all), in bfloat16 or not. What comes first is shortened in the same proportion.
    """
    recipe, first = experiment.recipe, experiment.pretrain
    if isinstance(first, Experiment):
        before = max(1, round(first.recipe.steps * steps / recipe.steps))
        first = lasting(first, steps=before, examples=examples, bf16=bf16)
    elif steps != recipe.steps and first is not None:
        first = shortened(first, max(1, round(first.steps * steps / recipe.steps)))
    if steps != recipe.steps:
        recipe = shortened(recipe, steps)
    return replace(experiment, recipe=recipe, pretrain=first, examples=examples, bf16=bf16)


def order(cells: Iterable[Cell], length: Length) -> list[Experiment]:
    """Return the experiments of all cells, each once, seed by seed: what is there early covers the whole table.

    Experiments of one seed share the split of the data, which is then made once.
    """
    columns = [length.of(cell) for cell in cells]
    return list(dict.fromkeys(experiment for one_seed in zip(*columns, strict=True) for experiment in one_seed))


def only(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Return the cells whose name has one of the patterns in it; all without a pattern.

    In a pattern `*` stands for any text, `?` for any character, `[abc]` for one of these; upper and lower case are one.
    A `$` at its end is the end of the name.

    Raises:
        SecateurError: nothing matches; the message lists some names.
    """
    if not patterns:
        return list(cells)
    wanted = [f"*{p[:-1]}" if p.endswith("$") else f"*{p}*" for p in (pattern.lower() for pattern in patterns)]
    found = [cell for cell in cells if any(fnmatchcase(cell.name.lower(), one) for one in wanted)]
    if not found:
        known = "; ".join(cell.name for cell in cells[:_NAMED]) + ("; …" if len(cells) > _NAMED else ".")
        there = f"Cells are: {known}" if cells else "There are no cells to choose from."
        raise SecateurError(f"`only` matches no cell, got {', '.join(map(repr, patterns))}. {there}")
    return found
