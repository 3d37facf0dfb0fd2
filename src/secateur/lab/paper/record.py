"""What came out for a cell, beside what the paper prints, in a file that the repository keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from secateur.lab.paper.cell import Cell
from secateur.lab.run import Result
from secateur.lab.store import damaged, read_json, write_json

FORMAT = "secateur.expected/1"


class Verdict(StrEnum):
    """How our error stands to the paper's."""

    REACHED = "at or below"
    AGREES = "within tolerance"
    MISSED = "**miss**"
    FAILED = "**failed**"
    UNMEASURED = "not measured"
    NOTHING = ""  # the paper prints no number to compare with


@dataclass(frozen=True)
class Record:
    """Runs of one cell, condensed.

    Args:
        errors: test errors after the last step, in per cent, one per seed.
        best: the lowest of each run's evaluations on the test set, in per cent: chosen on the test set, so optimistic.
        seconds: of training, one per seed.
        seeds: the seeds that finished.
        steps: optimizer steps of each run.
        examples: how many examples of each set were used; 0 means all.
        kept: surviving prunable parameters (of the first seed).
        engine: who computed the steps.
        threads: torch threads of each run.
        machine: the processor.
        data: the data set's title.
        command: what re-derives these numbers.
        failures: what went wrong, one sentence per failed seed.
    """

    errors: tuple[float, ...]
    best: tuple[float, ...]
    seconds: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    examples: int
    kept: int
    engine: str
    threads: int
    machine: str
    data: str
    command: str
    failures: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean error in per cent; None where no run finished."""
        return mean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n − 1) in per cent; None below two runs."""
        return stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def best_mean(self) -> float | None:
        """Mean of the best evaluations in per cent; None where no run finished."""
        return mean(self.best) if self.best else None

    @property
    def training(self) -> float | None:
        """Mean seconds of training; None where no run finished."""
        return mean(self.seconds) if self.seconds else None


def verdict(cell: Cell, record: Record | None) -> Verdict:
    """Compare our mean error with the paper's: at or below it, within tolerance, or a miss.

    The tolerance is `cell.points` or two of our standard deviations, whichever is larger.
    """
    if record is None:
        return Verdict.UNMEASURED
    if record.mean is None:
        return Verdict.FAILED
    if cell.paper is None:
        return Verdict.NOTHING
    if round(record.mean, 2) <= cell.paper:
        return Verdict.REACHED
    return Verdict.AGREES if record.mean <= cell.paper + max(cell.points, 2 * (record.std or 0.0)) else Verdict.MISSED


def condense(results: Sequence[Result], failures: Sequence[str], command: str) -> Record:
    """Make the record of a cell from the results of its seeds."""
    facts = [result.facts for result in results]
    first: Mapping[str, Any] = facts[0] if facts else {"data": {}, "engine": {}, "machine": {}, "experiment": {}}
    return Record(
        errors=tuple(round(100 * result.test_error, 4) for result in results),
        best=tuple(round(100 * result.best_test_error, 4) for result in results),
        seconds=tuple(round(float(fact["seconds"]["train"]), 2) for fact in facts),
        seeds=tuple(int(fact["seed"]) for fact in facts),
        steps=int(first.get("steps", 0)),
        examples=int(first["experiment"].get("examples", 0)),
        kept=int(first.get("kept", 0)),
        engine=str(first["engine"].get("name", "")),
        threads=int(first["machine"].get("threads", 0)),
        machine=_machine(first["machine"]),
        data=str(first["data"].get("title", "")),
        command=command,
        failures=tuple(failures),
    )


def _machine(facts: Mapping[str, Any]) -> str:
    """Name what computed: the accelerator where there was one, else the processor."""
    return str(facts.get("accelerator") or facts.get("cpu") or "")


Records = Mapping[str, Record]


def write(path: Path, cells: Iterable[Cell], records: Records) -> None:
    """Write a table's expectations and outcomes, cell by cell, atomically."""
    content = [
        {
            "cell": cell.name,
            "paper": cell.paper,
            "points": cell.points,
            "why": cell.why,
            "verdict": _word(cell, records),
        }
        | ({"ours": _plain(records[cell.name])} if cell.name in records else {})
        for cell in cells
    ]
    write_json(path, {"format": FORMAT, "cells": content})


def read(path: Path) -> dict[str, Record]:
    """Read the outcomes back, by cell name; none where there is no file.

    Raises:
        ArtefactError: the file is damaged.
    """
    if not path.exists():
        return {}
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise damaged(path, f"its format is {content.get('format')!r}, not {FORMAT!r}")
    try:
        return {entry["cell"]: _record(entry["ours"]) for entry in content["cells"] if "ours" in entry}
    except (KeyError, TypeError) as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None


def _word(cell: Cell, records: Records) -> str:
    return str(verdict(cell, records.get(cell.name))).strip("*")


def _plain(record: Record) -> dict[str, Any]:
    """Everything, with mean and deviation in front for those who read the file."""
    return {"mean": _rounded(record.mean), "std": _rounded(record.std)} | asdict(record)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _record(data: Mapping[str, Any]) -> Record:
    content: dict[str, Any] = {}
    for key, value in data.items():
        if key not in ("mean", "std"):  # those follow from the errors
            content[key] = tuple(value) if isinstance(value, list) else value
    return Record(**content)
