"""Run the cells of a table: the experiments of all seeds as one grid, condensed into records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from secateur.lab.compare import Comparison
from secateur.lab.experiment import Experiment
from secateur.lab.paper import record as records_of
from secateur.lab.paper.artefact import Artefact, Gathered, Paper
from secateur.lab.paper.cell import Cell, Length, order
from secateur.lab.paper.page import note_pictures
from secateur.lab.paper.record import Record, condense
from secateur.lab.run import Result, state_of

#: Runs experiments and gathers their results; `secateur.lab.compare.compare` with everything but them bound.
RunAll = Callable[[Sequence[Experiment]], Comparison]


def measure(
    cells: Sequence[Cell], length: Length, command: str, run_all: RunAll
) -> tuple[dict[str, Record], dict[str, tuple[Result, ...]]]:
    """Run cells and condense what came out.

    Args:
        cells: what is run.
        length: seeds and steps.
        command: what re-derives it, for the records.
        run_all: runs the grid.

    Returns:
        Records and results by cell name; a cell all of whose runs failed has a record that says why.
    """
    comparison = run_all(order(cells, length))
    found = {result.experiment: result for row in comparison.rows for result in row.results}
    records, results = {}, {}
    for cell in cells:
        wanted = length.of(cell)
        results[cell.name] = tuple(found[one] for one in wanted if one in found)
        failures = [comparison.failures[one] for one in wanted if one in comparison.failures]
        if results[cell.name] or failures:
            records[cell.name] = condense(results[cell.name], failures, command)
    return records, results


def finished(experiments: Sequence[Experiment], root: Path) -> list[Experiment]:
    """Return those whose run in `root` is finished."""
    return [one for one in experiments if state_of(root / one.name) == "finished"]


def keep(paper: Paper, artefact: Artefact, fresh: Mapping[str, Record]) -> dict[str, Record]:
    """Record fresh numbers beside what is recorded of the artefact's other cells; return them all."""
    path = paper.expected(artefact)
    known = records_of.read(path) | dict(fresh)
    wanted = {cell.name: known[cell.name] for cell in artefact.cells if cell.name in known}
    records_of.write(path, artefact.cells, wanted)
    return wanted


def illustrate(artefact: Artefact, gathered: Gathered, folder: Path) -> list[Path]:
    """Draw the artefact's pictures into a folder; return their paths."""
    if artefact.draw is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    pictures = list(artefact.draw(replace(gathered, cells=artefact.cells), folder))
    if pictures:
        note_pictures(folder, artefact, pictures)
    return [folder / name for name, _ in pictures]
