"""What `secateur paper` says: names, how a paper stands, a table beside the paper's, or all of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.cli.text import Table, console
from secateur.lab.paper import (
    Artefact,
    Cell,
    Costs,
    Paper,
    Records,
    Verdict,
    cost_totals,
    current_records,
    number,
    outcomes,
    plural,
    read_records,
    short,
    spread,
    verdict,
)

FORMAT = "secateur.paper/1"


@dataclass(frozen=True)
class Outcome:
    """What came out of some cells of an artefact, and its pictures."""

    artefact: Artefact
    cells: tuple[Cell, ...]
    records: Records
    pictures: tuple[Path, ...]

    @property
    def failed(self) -> bool:
        """Whether any of the runs failed."""
        return any(found.failures for found in self.records.values())


def print_names(names: Sequence[str], *, as_json: bool) -> None:
    """Say which papers there are."""
    if as_json:
        console.emit({"format": FORMAT, "papers": list(names)})
        return
    for name in names:
        console.say(name)


def print_standing(paper: Paper, *, as_json: bool) -> None:
    """Say what of a paper can be reproduced, and how it stands."""
    if as_json:
        console.emit({"format": FORMAT, "paper": paper.name, "artefacts": [_standing(paper, a) for a in _all(paper)]})
        return
    table = Table(paper.title, ("artefact", "what", ">cells", ">seeds", ">recorded", ">misses"))
    for artefact in _all(paper):
        now = _standing(paper, artefact)
        table.add(artefact.name, artefact.title, *(now[key] for key in ("cells", "seeds", "recorded", "misses")))
    console.show(table)


def print_page(paper: Paper, path: Path, *, as_json: bool) -> None:
    """Say where the page of a paper was written."""
    if as_json:
        console.emit({"format": FORMAT, "paper": paper.name, "page": str(path)})
    else:
        console.say(str(path))


def print_outcome(outcome: Outcome) -> None:
    """Put the numbers beside the paper's."""
    columns = ("", "", ">paper", ">ours", ">best", ">seeds", ">steps", "verdict")
    table = Table(outcome.artefact.title, columns)
    for cell in outcome.cells:
        table.add(cell.row, cell.column, number(cell.paper), *_measured(cell, outcome))
    if outcome.cells:
        console.show(table)
    for picture in outcome.pictures:
        console.say(f"picture: {picture}")


def print_costs(artefact: Artefact, cells: Sequence[Cell], costs: Costs) -> None:
    """Say what a step of each cell takes."""
    table = Table(artefact.title, ("", "", ">a step, ms", ">dense, ms", ">dense / it", "engine"))
    for cell in cells:
        spent = costs[cell.name]
        times = short(1e3 * spent.step), short(1e3 * spent.dense), f"{spent.gain:.1f}×"
        table.add(cell.row, cell.column, *times, spent.engine)
    console.show(table)
    for sentence in cost_totals(cells, costs, artefact.seeds):
        console.say(f"hours of runs at full length, {plural(artefact.seeds, 'seed')}: {sentence}")


def costs_to_json(paper: Paper, found: Mapping[str, Costs]) -> dict[str, Any]:
    """Return the costs of some artefacts as JSON-ready data."""
    artefacts = [
        {"artefact": name, "costs": {cell: spent.to_json() for cell, spent in costs.items()}}
        for name, costs in found.items()
    ]
    return {"format": FORMAT, "paper": paper.name, "artefacts": artefacts}


def print_failures(outcomes: Sequence[Outcome]) -> None:
    """Say on stderr what went wrong, cell by cell."""
    for outcome in outcomes:
        for name, found in outcome.records.items():
            for failure in found.failures:
                console.complain(f"{name}: {failure}")


def to_json(paper: Paper, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return everything as JSON-ready data."""
    return {
        "format": FORMAT,
        "paper": paper.name,
        "artefacts": [
            {
                "artefact": outcome.artefact.name,
                "cells": [_cell(cell, outcome.records) for cell in outcome.cells],
                "pictures": [str(picture) for picture in outcome.pictures],
            }
            for outcome in outcomes
        ],
    }


def _all(paper: Paper) -> list[Artefact]:
    return list(paper.artefacts.values())


def _standing(paper: Paper, artefact: Artefact) -> dict[str, Any]:
    records = current_records(artefact.cells, read_records(paper.expected(artefact)))
    count = outcomes(artefact, records)
    return {
        "artefact": artefact.name,
        "title": artefact.title,
        "cells": len(artefact.cells),
        "seeds": artefact.seeds,
        "recorded": len(records),
        "misses": count[Verdict.MISSED] + count[Verdict.FAILED],
    }


def _measured(cell: Cell, outcome: Outcome) -> tuple[object, ...]:
    found = outcome.records.get(cell.name)
    if found is None:
        return (*(None,) * 4, Verdict.UNMEASURED)
    return (
        spread(found),
        number(found.best_mean),
        len(found.seeds),
        f"{found.steps:,}",
        verdict(cell, found),
    )


def _cell(cell: Cell, records: Records) -> dict[str, Any]:
    found = records.get(cell.name)
    said = {"cell": cell.name, "paper": cell.paper, "verdict": str(verdict(cell, found))}
    return said if found is None else said | {"ours": found.to_json()}
