"""What a training step costs, sparse and dense side by side in one process, and so what a whole run would take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count, groupby
from math import inf
from pathlib import Path
from typing import Any

import torch

from secateur.errors import SecateurError
from secateur.lab import data, engine, facts, stages
from secateur.lab.compare import dense
from secateur.lab.data import Dataset
from secateur.lab.engine import Stepper
from secateur.lab.experiment import DENSE, Experiment
from secateur.lab.paper.artefact import Artefact, Paper
from secateur.lab.paper.cell import Cell
from secateur.lab.paper.layout import cross, plural, short
from secateur.lab.paper.record import each
from secateur.lab.runners import at_least_one, quiet
from secateur.lab.store import damaged, read_json, write_json
from secateur.sparse.timing import interleaved

FORMAT = "secateur.cost/1"

_SAMPLE = 0.02  # seconds of steps in a turn: long enough that a short step runs as in a loop of its own
_RATE = 1e-3  # of learning: what is timed must stay finite, and a step costs the same at any rate


@dataclass(frozen=True)
class Cost:
    """Median seconds of an optimizer step, and of the dense network's beside it.

    Args:
        experiment: whose steps were timed.
        step: seconds of one: fetching the batch, forward, backward and update.
        dense: seconds of the dense network's, under torch, measured in turns with it.
        engine: who computed the experiment's own.
        threads: torch threads of both.
        machine: the processor or accelerator.

    Raises:
        SecateurError: a time that is none.
    """

    experiment: Experiment
    step: float
    dense: float
    engine: str
    threads: int
    machine: str

    def __post_init__(self) -> None:
        for name, value in {"step": self.step, "dense": self.dense}.items():
            if not 0 < value < inf:
                raise SecateurError(f"`{name}` must be a time above 0 seconds, got {value}.")

    @property
    def gain(self) -> float:
        """How many times longer the dense step takes."""
        return self.dense / self.step

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready data."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "experiment": self.experiment.to_json()
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cost:
        """Rebuild a cost from `to_json`'s data.

        Raises:
            KeyError, TypeError, ValueError: it is no such data.
        """
        return Cost(
            Experiment.from_json(data["experiment"]),
            float(data["step"]),
            float(data["dense"]),
            str(data["engine"]),
            int(data["threads"]),
            str(data["machine"]),
        )


#: Costs by the names of their cells.
Costs = Mapping[str, Cost]


def check(cells: Iterable[Cell], *, data_dir: str | Path | None = None) -> None:
    """Refuse cells that cannot be timed, before any is.

    Raises:
        SecateurError: see `secateur.lab.stages.check`.
        DataError: their data are not on this machine.
    """
    wanted = [cell.experiment for cell in cells]
    for experiment in wanted:
        stages.check(experiment)
    for name in dict.fromkeys(experiment.data for experiment in wanted):
        data.look_for(name, data_dir=data_dir)


def measure(
    cells: Iterable[Cell],
    *,
    data_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    threads: int = 1,
    budget: float = 1.0,
) -> dict[str, Cost]:
    """Time a step of each cell in turns with the dense network's.

    Args:
        cells: whose steps are timed, with the batch, optimizer and engine of their own runs.
        data_dir: where data sets are searched first.
        device: where it is computed.
        threads: torch threads.
        budget: about how many seconds are spent on a cell; a slow one is given at least a few turns.

    Returns:
        Costs by cell name; a cell that prunes nothing is its own dense network.

    Raises:
        SecateurError: `threads` is below 1, or a cell cannot be run; see `check`.
    """
    at_least_one("threads", threads)
    place, found = torch.device(device), {}
    machine = facts.machine(place)
    name = str(machine["accelerator"] or machine["cpu"])
    with quiet(threads):
        for _, group in groupby(cells, key=lambda cell: stages.source(cell.experiment)):
            alike = list(group)
            dataset = stages.load(alike[0].experiment, data_dir=data_dir, device=place)
            for cell in alike:
                times, chosen = _timed(cell.experiment, dataset, place, budget)
                found[cell.name] = Cost(cell.experiment, *times, chosen, threads, name)
    return found


def keep(paper: Paper, artefact: Artefact, fresh: Costs) -> dict[str, Cost]:
    """Record fresh costs beside those of the artefact's other cells; return all of what its cells run now.

    Raises:
        ArtefactError: the file that is there is damaged; it was left as it is.
    """
    path = paper.costs(artefact)
    known = read(path) | dict(fresh)
    write(path, {cell.name: known[cell.name] for cell in artefact.cells if cell.name in known})
    return current(artefact.cells, known)


def write(path: Path, costs: Costs) -> None:
    """Write costs by cell name, atomically."""
    write_json(path, {"format": FORMAT, "cells": {name: cost.to_json() for name, cost in costs.items()}})


def read(path: Path) -> dict[str, Cost]:
    """Read costs back; none where there is no file.

    Raises:
        ArtefactError: the file is damaged, or is no such file.
    """
    if not path.exists():
        return {}
    content = read_json(path, kind=FORMAT)
    try:
        return {str(name): Cost.from_json(dict(entry)) for name, entry in content["cells"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None


def current(cells: Iterable[Cell], costs: Costs) -> dict[str, Cost]:
    """Return the costs of what the cells run now, in bfloat16 or not; one that was changed since is not timed yet."""
    return {
        cell.name: cost
        for cell in cells
        if (cost := costs.get(cell.name)) is not None
        and cost.experiment == replace(cell.experiment, bf16=cost.experiment.bf16)
    }


def layout(cells: Sequence[Cell], costs: Costs) -> str:
    """Lay out milliseconds per step and how many times longer the dense step beside it took; nothing without costs.

    Rows stand against columns; where columns are more, they go down the page.
    """
    timed = [cell for cell in cells if cell.name in costs]
    if not timed:
        return ""

    def show(cell: Cell) -> str:
        cost = costs[cell.name]
        gain = "" if cell.experiment.method == DENSE else f" ({cost.gain:.1f}×)"
        return f"{short(1e3 * cost.step)}{gain}"

    used = [costs[cell.name] for cell in timed]
    machines = each(
        f"{cost.machine}, {plural(cost.threads, 'thread')}{', in bfloat16' if cost.experiment.bf16 else ''}"
        for cost in used
    )
    title = "Milliseconds per training step (and how many times longer dense takes, under torch, measured in turns)"
    wide = len({cell.column for cell in timed}) > len({cell.row for cell in timed})
    return f"{title}, on {machines}:\n\n{cross(timed, show, turned=wide)}"


def whole(cells: Sequence[Cell], costs: Costs, seeds: int) -> tuple[float, float] | None:
    """Return the seconds of training all cells at their full length with so many seeds, as they run, and all dense.

    None where a cell was not timed.
    """
    if not cells or any(cell.name not in costs for cell in cells):
        return None
    steps = {cell.name: cell.experiment.recipe.steps * seeds for cell in cells}
    own = sum(costs[name].step * number for name, number in steps.items())
    return own, sum(costs[name].dense * number for name, number in steps.items())


def totals(cells: Sequence[Cell], costs: Costs, seeds: int) -> list[str]:
    """Say, for each network and column of several cells that were all timed, the hours that its steps take."""
    series: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        series.setdefault((cell.experiment.model, cell.column), []).append(cell)
    sentences = []
    for (model, column), members in series.items():
        spent = whole(members, costs, seeds)
        if spent is not None and len(members) > 1:
            own, dense = (short(seconds / 3600) for seconds in spent)
            sentences.append(f"{model}, {column}: {own}, and {dense} if each run took as long as the dense network's.")
    return sentences


def _timed(
    experiment: Experiment, dataset: Dataset, device: torch.device, budget: float
) -> tuple[tuple[float, float], str]:
    """Return the seconds of an experiment's step and of the dense one's, and the engine of the first."""
    wanted = {"own": experiment, "dense": dense(experiment, seed=experiment.seed)}
    if experiment.method == DENSE:
        del wanted["dense"]
    steppers = {name: _stepper(one, dataset, device) for name, one in wanted.items()}
    turns = {name: _turn(stepper, experiment, dataset) for name, stepper in steppers.items()}
    times = interleaved(turns, seconds=budget, sample=_SAMPLE)
    for stepper in steppers.values():
        stepper.close()
    return (times["own"], times.get("dense", times["own"])), str(steppers["own"].choice.engine)


def _stepper(experiment: Experiment, dataset: Dataset, device: torch.device) -> Stepper:
    """Prune and build the engine, as a run does."""
    masks = None if experiment.method == DENSE else stages.masks_for(experiment, dataset, device)
    model = stages.survivors(experiment, masks).to(device).train()
    optimizer, bf16 = experiment.recipe.optimizer, experiment.bf16
    choice = engine.choose(experiment.engine, model, masks, optimizer, bf16=bf16)
    return engine.start(choice, model, masks, optimizer, bf16=bf16)


def _turn(stepper: Stepper, experiment: Experiment, dataset: Dataset) -> Callable[[], object]:
    """Return what takes one step after another on the run's own batches.

    Random labels would cost what the true ones do, which are taken.
    """
    recipe, steps = experiment.recipe, count()
    augment = dataset.augment if recipe.augment else None

    def turn() -> None:
        batch = data.batch_at(dataset.train, recipe.batch, seed=experiment.seed, step=next(steps), augment=augment)
        stepper.step(*batch, _RATE)
        if batch[0].device.type != "cpu":  # an accelerator answers before the step is done
            torch.accelerator.synchronize(batch[0].device)

    return turn
