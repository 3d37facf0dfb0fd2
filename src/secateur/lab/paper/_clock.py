"""The clock: a step and an evaluation of an experiment, timed in turns with the dense network's in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, groupby
from pathlib import Path

import torch

from secateur._base.errors import SecateurError
from secateur.lab import data
from secateur.lab.comparing import at_least_one, quiet
from secateur.lab.data import Dataset
from secateur.lab.experiment import DENSE, Experiment, check, dense, load_data, pretraining, source, tags_of, untrained
from secateur.lab.paper._cell import Cell
from secateur.lab.paper._cost import Cost
from secateur.lab.running import Stepper, choose, error, evaluations, machine, masks_for, start
from secateur.sparse.timing import interleaved, processor

_SAMPLE = 0.02  # seconds of steps in a turn: long enough that a short step runs as in a loop of its own
_EVALUATED = 1000  # examples of the test set on which an evaluation is timed, for all
_RATE = 1e-3  # of learning: what is timed must stay finite, and a step costs the same at any rate


def check_timed(cells: Iterable[Cell], *, data_dir: str | Path | None = None) -> None:
    """Refuse cells that cannot be timed, before any is.

    Raises:
        SecateurError: see `secateur.lab.experiment.check`.
        DataError: their data are not on this machine.
    """
    wanted = [cell.experiment for cell in cells]
    for experiment in wanted:
        check(experiment)
        if pretraining(experiment) is not None or tags_of(experiment) & {"online", "program"}:
            raise SecateurError(
                f"only a network that is pruned before it is trained can be timed, and {experiment.method} is not run "
                "like that. Leave this cell out (--only)."
            )
    for name in dict.fromkeys(experiment.data for experiment in wanted):
        data.look_for(name, data_dir=data_dir)


def time_cells(
    cells: Iterable[Cell],
    *,
    data_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    threads: int = 1,
    budget: float = 1.0,
    tell: Callable[[Cell], None] | None = None,
) -> dict[str, Cost]:
    """Time a step and an evaluation of each cell in turns with the dense network's: on one thread of a CPU by the
    processor time it takes, else by the wall clock.

    Args:
        cells: whose steps are timed, with the batch, optimizer and engine of their own runs.
        data_dir: where data sets are searched first.
        device: where it is computed.
        threads: torch threads.
        tell: is told which cell is timed next.
        budget: about how many seconds are spent on a cell; a slow one is given at least a few turns.

    Returns:
        Costs by cell name; a cell that prunes nothing is its own dense network.

    Raises:
        SecateurError: `threads` is below 1, or a cell cannot be run; see `check_timed`.
    """
    at_least_one("threads", threads)
    place, found = torch.device(device), {}
    name = str(machine(place)["accelerator"] or processor())
    with quiet(threads):
        for _, group in groupby(cells, key=lambda cell: source(cell.experiment)):
            alike = list(group)
            dataset = load_data(alike[0].experiment, data_dir=data_dir, device=place)
            for cell in alike:
                if tell is not None:
                    tell(cell)
                times, chosen = _timed(cell.experiment, dataset, place, budget)
                number = evaluations(cell.experiment.recipe, len(dataset.train))
                found[cell.name] = Cost(cell.experiment, *times, number, chosen, threads, name)
    return found


def _timed(
    experiment: Experiment, dataset: Dataset, device: torch.device, budget: float
) -> tuple[tuple[float, float, float, float], str]:
    """Return the seconds of a step and of the dense one's, of an evaluation and the dense one's; and the engine."""
    wanted = {"own": experiment, "dense": dense(experiment, seed=experiment.seed)}
    if experiment.method == DENSE:
        del wanted["dense"]
    # One thread's own time does not run on while other processes have its core; wall time does, and more threads or an
    # accelerator have no other.
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    steppers = {name: _stepper(one, dataset, device) for name, one in wanted.items()}
    steps = interleaved(
        {name: _turn(stepper, experiment, dataset) for name, stepper in steppers.items()},
        seconds=budget,
        sample=_SAMPLE,
        clock=clock,
    )
    examples = dataset.test.x[:_EVALUATED], dataset.test.y[:_EVALUATED]
    parts = interleaved(
        {name: partial(error, stepper.predict, *examples) for name, stepper in steppers.items()},
        seconds=budget / 4,
        sample=_SAMPLE,
        clock=clock,
    )
    all_of_it = (len(dataset.validation) + len(dataset.test)) / len(examples[0])
    for stepper in steppers.values():
        stepper.close()
    own, twin = "own", "dense" if "dense" in steps else "own"
    times = steps[own], steps[twin], all_of_it * parts[own], all_of_it * parts[twin]
    return times, str(steppers[own].choice.engine)


def _stepper(experiment: Experiment, dataset: Dataset, device: torch.device) -> Stepper:
    """Prune and build the engine, as a run does."""
    masks = None if experiment.method == DENSE else masks_for(experiment, dataset, device)
    model = untrained(experiment).to(device).train()
    if masks is not None:
        masks.apply_(model)
    optimizer, bf16 = experiment.recipe.optimizer, experiment.bf16
    choice = choose(experiment.engine, model, masks, optimizer, bf16=bf16)
    return start(choice, model, masks, optimizer, bf16=bf16)


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
