"""Run the cells of a table: the experiments of all seeds as one grid, condensed into records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from secateur.lab import data
from secateur.lab.comparing import Comparison
from secateur.lab.experiment import Experiment, check
from secateur.lab.paper._artefact import Artefact, Gathered, Paper
from secateur.lab.paper._cell import Cell, Length, order
from secateur.lab.paper._file import read_records, write_records
from secateur.lab.paper._page import note_pictures
from secateur.lab.paper._record import Record, condense, current_records
from secateur.lab.running import Result, state_of, why_diverged

#: Runs experiments and gathers their results; `secateur.lab.comparing.compare` with everything but them bound.
RunAll = Callable[[Sequence[Experiment]], Comparison]


def run_cells(cells: Sequence[Cell], length: Length, command: str, run_all: RunAll) -> dict[str, Record]:
    """Run cells and condense what came out.

    Args:
        cells: what is run.
        length: seeds and steps.
        command: what re-derives it, for the records.
        run_all: runs the grid; what it leaves out is not measured.

    Returns:
        Records by cell name; a cell all of whose runs failed has a record that says why.
    """
    comparison = run_all(order(cells, length))
    found = {result.experiment: result for row in comparison.rows for result in row.results}
    records = {}
    for cell in cells:
        wanted = length.of(cell)
        results = [found[one] for one in wanted if one in found]
        failed = {one.seed: comparison.failures[one] for one in wanted if one in comparison.failures}
        failures = [f"seed {seed}: {' '.join(problem.split())}" for seed, problem in failed.items()]
        if results or failures:
            records[cell.name] = condense(wanted, results, failures, command)
    return records


def check_first(cells: Iterable[Cell], length: Length) -> None:
    """Refuse what cannot be run, before anything is; the seeds of a cell differ in nothing that is checked.

    Raises:
        SecateurError: see `secateur.lab.experiment.check`.
    """
    for cell in cells:
        check(length.of(cell)[0])


def check_data(experiments: Iterable[Experiment], *, root: Path, data_dir: str | Path | None) -> None:
    """Refuse runs whose data are not on this machine, unless they are finished.

    Raises:
        DataError: with the folders searched and the way out.
    """
    wanted = list(experiments)
    done = set(finished(wanted, root))
    for name in dict.fromkeys(one.data for one in wanted if one not in done):
        data.look_for(name, data_dir=data_dir)


def finished(experiments: Iterable[Experiment], root: Path) -> list[Experiment]:
    """Return those whose run in `root` is finished."""
    return [one for one in experiments if state_of(root / one.name) == "finished"]


def diverged(experiments: Iterable[Experiment], root: Path) -> dict[Experiment, str]:
    """Return those whose run in `root` ended with a loss that is not finite, and what it said.

    Raises:
        ArtefactError: one of them is damaged.
    """
    return {one: why_diverged(root / one.name) for one in experiments if state_of(root / one.name) == "diverged"}


def at_hand(cells: Iterable[Cell], length: Length, root: Path) -> dict[str, tuple[Result, ...]]:
    """Return the finished runs of each cell in `root`, whenever they were run.

    Raises:
        ArtefactError: one of them is damaged.
    """
    return {cell.name: tuple(Result.load(root / one.name) for one in finished(length.of(cell), root)) for cell in cells}


def keep_records(paper: Paper, artefact: Artefact, fresh: Mapping[str, Record]) -> dict[str, Record]:
    """Record fresh numbers beside what is recorded of the artefact's other cells.

    Numbers that took more steps, or as many with more seeds, are not given up for fresh ones: `outdone` names them.

    Returns:
        The records of what its cells run now.

    Raises:
        ArtefactError: the file that is there is damaged; it was left as it is.
    """
    if not artefact.cells:  # pictures alone leave nothing to record
        return {}
    path = paper.expected(artefact)
    known = read_records(path)
    better = outdone(artefact, fresh, known)
    known |= {name: one for name, one in fresh.items() if name not in better}
    write_records(path, artefact.cells, known)
    return current_records(artefact.cells, known)


def outdone(artefact: Artefact, fresh: Mapping[str, Record], known: Mapping[str, Record]) -> dict[str, Record]:
    """Return what is known of a cell's present recipe where it took more work than what came out afresh."""
    kept = current_records(artefact.cells, known)
    return {name: kept[name] for name, one in fresh.items() if name in kept and _work_in(kept[name]) > _work_in(one)}


def _work_in(record: Record) -> tuple[int, int]:
    return record.steps, len(record.seeds) + len(record.failures)


def illustrate(artefact: Artefact, gathered: Gathered, folder: Path) -> list[Path]:
    """Draw the artefact's pictures into a folder; return their paths."""
    pictures = [] if artefact.draw is None else list(artefact.draw(gathered, folder))
    if pictures:
        note_pictures(folder, artefact, pictures)
    return [folder / name for name, _ in pictures]
