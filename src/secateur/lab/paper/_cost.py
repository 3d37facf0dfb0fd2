"""What a step and an evaluation cost, sparse and dense side by side in one process, and so what a run would take.

The file keeps them by machine: what one make of processor takes says little of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from secateur._base.errors import SecateurError
from secateur.lab.experiment import DENSE, Experiment
from secateur.lab.paper._artefact import Artefact, Paper
from secateur.lab.paper._cell import Cell
from secateur.lab.paper._layout import cross, plural, short
from secateur.lab.paper._record import each
from secateur.lab.repeat import damaged, read_json, write_json

COST_FORMAT = "secateur.cost/3"


@dataclass(frozen=True)
class Cost:
    """Median seconds of an optimizer step and of an evaluation, and of the dense network's beside them.

    Args:
        experiment: whose steps were timed.
        step: seconds of one: fetching the batch, forward, backward and update.
        dense: seconds of the dense network's, under torch, measured in turns with it.
        evaluation: seconds of one: the validation and the test set.
        dense_evaluation: seconds of the dense network's.
        evaluations: how many a run of full length has.
        engine: who computed the experiment's own.
        threads: torch threads of both.
        machine: the processor or accelerator.

    Raises:
        SecateurError: a time that is none.
    """

    experiment: Experiment
    step: float
    dense: float
    evaluation: float
    dense_evaluation: float
    evaluations: int
    engine: str
    threads: int
    machine: str

    def __post_init__(self) -> None:
        for name in ("step", "dense", "evaluation", "dense_evaluation"):
            value = getattr(self, name)
            if not 0 < value < inf:
                raise SecateurError(f"`{name}` must be a time above 0 seconds, got {value}.")

    @property
    def gain(self) -> float:
        """How many times longer the dense step takes."""
        return self.dense / self.step

    def whole(self) -> tuple[float, float]:
        """Return the seconds of a run of full length, steps and evaluations, as it runs and dense."""
        steps = self.experiment.recipe.steps
        own = steps * self.step + self.evaluations * self.evaluation
        return own, steps * self.dense + self.evaluations * self.dense_evaluation

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
            float(data["evaluation"]),
            float(data["dense_evaluation"]),
            int(data["evaluations"]),
            str(data["engine"]),
            int(data["threads"]),
            str(data["machine"]),
        )


#: Costs by the names of their cells.
Costs = Mapping[str, Cost]


def keep_costs(paper: Paper, artefact: Artefact, fresh: Costs) -> dict[str, Cost]:
    """Record fresh costs beside those of the artefact's other cells, and beside those of other machines.

    Returns:
        All that is known now of what its cells run, on the machine of the fresh ones.

    Raises:
        ArtefactError: the file that is there is damaged; it was left as it is.
    """
    path = paper.costs(artefact)
    known = read_costs(path)
    names = dict.fromkeys(cost.machine for cost in fresh.values())
    for name in names:
        costs = known.get(name, {}) | {cell: cost for cell, cost in fresh.items() if cost.machine == name}
        known[name] = {cell.name: costs[cell.name] for cell in artefact.cells if cell.name in costs}
    write_costs(path, known)
    return {cell: cost for name in names for cell, cost in current_costs(artefact.cells, known[name]).items()}


def write_costs(path: Path, machines: Mapping[str, Costs]) -> None:
    """Write costs by machine and cell name, atomically."""
    told = {
        machine: {name: cost.to_json() for name, cost in costs.items()} for machine, costs in machines.items() if costs
    }
    write_json(path, {"format": COST_FORMAT, "machines": told})


def read_costs(path: Path) -> dict[str, dict[str, Cost]]:
    """Read costs back, by machine and cell name; none where there is no file.

    Raises:
        ArtefactError: the file is damaged, or is no such file.
    """
    if not path.exists():
        return {}
    content = read_json(path, kind=COST_FORMAT)
    try:
        return {
            str(machine): {str(name): Cost.from_json(dict(entry)) for name, entry in costs.items()}
            for machine, costs in content["machines"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None


def current_costs(cells: Iterable[Cell], costs: Costs) -> dict[str, Cost]:
    """Return the costs of what the cells run now, in bfloat16 or not; one that was changed since is not timed yet."""
    return {
        cell.name: cost
        for cell in cells
        if (cost := costs.get(cell.name)) is not None
        and cost.experiment == replace(cell.experiment, bf16=cost.experiment.bf16)
    }


def cost_table(cells: Sequence[Cell], costs: Costs) -> str:
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


def whole_costs(cells: Sequence[Cell], costs: Costs, seeds: int) -> tuple[float, float] | None:
    """Return the seconds of all cells' runs at their full length with so many seeds, as they run, and all dense.

    None where a cell was not timed.
    """
    if not cells or any(cell.name not in costs for cell in cells):
        return None
    runs = [costs[cell.name].whole() for cell in cells]
    return seeds * sum(own for own, _ in runs), seeds * sum(dense for _, dense in runs)


def cost_totals(cells: Sequence[Cell], costs: Costs, seeds: int) -> list[str]:
    """Say, for each network and column of several cells that were all timed, the hours that its runs take."""
    series: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        series.setdefault((cell.experiment.model, cell.column), []).append(cell)
    sentences = []
    for (model, column), members in series.items():
        spent = whole_costs(members, costs, seeds)
        if spent is not None and len(members) > 1:
            own, dense = (short(seconds / 3600) for seconds in spent)
            sentences.append(f"{model}, {column}: {own}, and {dense} if each run took as long as the dense network's.")
    return sentences
