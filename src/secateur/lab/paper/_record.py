"""What came out for a cell, beside what the paper prints, in a file that the repository keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from secateur.lab.experiment import Experiment
from secateur.lab.paper._cell import Cell, lasting
from secateur.lab.repeat import damaged, read_json, write_json
from secateur.lab.running import Result

RECORD_FORMAT = "secateur.expected/1"

#: Between the names of different machines, engines or data sets of one record.
SEPARATOR = "; "


class Verdict(StrEnum):
    """How our error stands to the paper's."""

    REACHED = "at or below"
    AGREES = "within tolerance"
    MISSED = "miss"
    FAILED = "failed"
    UNMEASURED = "not measured"
    NOTHING = ""  # the paper prints no number to compare with


@dataclass(frozen=True)
class Record:
    """Runs of one cell, condensed.

    Args:
        experiment: what was run, with the first of its seeds.
        errors: test errors after the last step, in per cent, one per seed that finished.
        best: the lowest of each run's evaluations on the test set, in per cent: chosen on the test set, so optimistic.
        seconds: of training, one per seed.
        seeds: the seeds that finished.
        kept: surviving prunable parameters (of the first seed).
        engine: who computed the steps.
        threads: torch threads of each run; 0 where they were not the same for all.
        machine: the processor or accelerator; several with semicolons between them.
        data: the data set's title.
        command: what re-derives these numbers.
        failures: what went wrong, one sentence per failed seed.
    """

    experiment: Experiment
    errors: tuple[float, ...]
    best: tuple[float, ...]
    seconds: tuple[float, ...]
    seeds: tuple[int, ...]
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
    def steps(self) -> int:
        """Optimizer steps of each run."""
        return self.experiment.recipe.steps

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready data, mean and deviation in front."""
        derived = {"mean": _rounded(self.mean), "std": _rounded(self.std), "steps": self.steps}
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(value) for name, value in content.items() if isinstance(value, tuple)}
        return derived | content | lists | {"experiment": self.experiment.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Record:
        """Rebuild a record from `to_json`'s data.

        Raises:
            KeyError, TypeError, ValueError: it is no such data.
        """
        return Record(**{name: kind(data[name]) for name, kind in _KINDS.items()})


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


#: How each field of a record is read; what else is in the file follows from them.
_KINDS: Mapping[str, Callable[[Any], Any]] = {
    "experiment": Experiment.from_json,
    "errors": _floats,
    "best": _floats,
    "seconds": _floats,
    "seeds": lambda seeds: tuple(int(seed) for seed in seeds),
    "kept": int,
    "engine": str,
    "threads": int,
    "machine": str,
    "data": str,
    "command": str,
    "failures": lambda failures: tuple(str(text) for text in failures),
}


#: Records by the names of their cells.
Records = Mapping[str, Record]


def verdict(cell: Cell, record: Record | None) -> Verdict:
    """Compare our mean error with the paper's: at or below it, within tolerance, or a miss.

    The tolerance is `cell.points` or two of our standard deviations, whichever is larger. Compared is what is printed,
    the second decimal of a per cent: neither a sum's last bit nor the third decimal decides. Where the paper shows a
    failure, failing agrees with it, and nothing else does. Where more weights stay than the paper keeps, it is a miss.
    """
    if record is None:
        return Verdict.UNMEASURED
    if record.mean is None:
        return Verdict.FAILED
    if cell.paper is None:
        return Verdict.NOTHING
    if too_many(cell, record):
        return Verdict.MISSED
    ours, allowed = round(record.mean, 2), cell.paper + max(cell.points, 2 * (record.std or 0.0))
    if cell.fails_from is not None:
        return Verdict.AGREES if ours >= cell.fails_from else Verdict.MISSED
    if ours <= cell.paper:
        return Verdict.REACHED
    return Verdict.AGREES if ours <= round(allowed, 2) else Verdict.MISSED


def too_many(cell: Cell, record: Record) -> bool:
    """Tell whether more weights stay than the paper's error belongs to."""
    return cell.most_kept is not None and record.kept > cell.most_kept


def condense(wanted: Sequence[Experiment], results: Sequence[Result], failures: Sequence[str], command: str) -> Record:
    """Make the record of a cell.

    Args:
        wanted: its experiments, one per seed.
        results: those that finished, in the order of their seeds.
        failures: what went wrong with others.
        command: what re-derives the numbers.
    """
    facts = [result.facts for result in results]
    threads = {int(fact["machine"].get("threads", 0)) for fact in facts}
    return Record(
        experiment=wanted[0],
        errors=tuple(round(100 * result.test_error, 4) for result in results),
        best=tuple(round(100 * result.best_test_error, 4) for result in results),
        seconds=tuple(float(fact["seconds"]["train"]) for fact in facts),
        seeds=tuple(result.experiment.seed for result in results),
        kept=int(facts[0]["kept"]) if facts else 0,
        engine=each(str(fact["engine"]["name"]) for fact in facts),
        threads=threads.pop() if len(threads) == 1 else 0,
        machine=each(_machine(fact["machine"]) for fact in facts),
        data=each(str(fact["data"]["title"]) for fact in facts),
        command=command,
        failures=tuple(failures),
    )


def current_records(cells: Iterable[Cell], records: Records) -> dict[str, Record]:
    """Return the records of what the cells run now, at whatever length, on however many examples, in bfloat16 or not.

    A cell whose recipe was changed since has no record, until it is run again.
    """
    return {
        cell.name: record
        for cell in cells
        if (record := records.get(cell.name)) is not None and record.experiment == _as_run(cell, record.experiment)
    }


def _as_run(cell: Cell, run: Experiment) -> Experiment:
    return lasting(cell.experiment, steps=run.recipe.steps, examples=run.examples, bf16=run.bf16)


def each(names: Iterable[str]) -> str:
    """Name different things once each.

    >>> each(["torch", "", "sparse", "torch"])
    'torch; sparse'
    """
    return SEPARATOR.join(dict.fromkeys(name for name in names if name))


def write_records(path: Path, cells: Iterable[Cell], records: Records) -> None:
    """Write a table's expectations and outcomes, cell by cell, atomically."""
    shown = list(cells)
    now = current_records(shown, records)
    content = [
        {
            "cell": cell.name,
            "paper": cell.paper,
            "points": cell.points,
            "why": cell.why,
            "verdict": str(verdict(cell, now.get(cell.name))),
        }
        | ({} if cell.fails_from is None else {"fails_from": cell.fails_from})
        | ({"ours": records[cell.name].to_json()} if cell.name in records else {})
        for cell in shown
    ]
    write_json(path, {"format": RECORD_FORMAT, "cells": content})


def read_records(path: Path) -> dict[str, Record]:
    """Read the outcomes back, by cell name; none where there is no file.

    Raises:
        ArtefactError: the file is damaged, or is no such file.
    """
    if not path.exists():
        return {}
    content = read_json(path, kind=RECORD_FORMAT)
    try:
        cells = [dict(entry) for entry in content["cells"]]
        return {str(entry["cell"]): Record.from_json(entry["ours"]) for entry in cells if "ours" in entry}
    except (KeyError, TypeError, ValueError) as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None


def _machine(facts: Mapping[str, Any]) -> str:
    """Name what computed: the accelerator where there was one, else the processor."""
    return str(facts.get("accelerator") or facts.get("cpu") or "")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
