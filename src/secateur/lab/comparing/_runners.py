"""Who runs a list of experiments: this process, several processes of this machine, or what else fits `Runner`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from secateur._base.errors import OF_THE_OUTCOME, SecateurError, told
from secateur.lab import data, models
from secateur.lab.experiment import Experiment, load_data, source
from secateur.lab.running import OnProgress, Progress, Result, run


@dataclass(frozen=True)
class Places:
    """Where runs are kept, where data sets are, where it is computed, seconds between checkpoints: as in `run`."""

    root: Path
    data_dir: Path | None
    device: str
    save_every: float


#: An experiment and its result, or the sentence that says why it has none; in any order.
Outcomes = Iterator[tuple[Experiment, Result | str]]

#: Runs experiments, leaves their files in `places.root / experiment.name`, and gives every outcome as it comes.
#: A `SecateurError` or `OSError` of one run is its outcome and does not stop the others.
Runner = Callable[[Sequence[Experiment], Places, OnProgress | None], Outcomes]


def one_by_one(*, threads: int | None = None) -> Runner:
    """Run in this process, one experiment after the other.

    Args:
        threads: torch threads per run; None means torch's own number.

    Raises:
        SecateurError: `threads` is below 1.
    """
    at_least_one("threads", threads)

    def runner(experiments: Sequence[Experiment], places: Places, on_progress: OnProgress | None) -> Outcomes:
        with quiet(threads or torch.get_num_threads()):
            yield from _one_by_one(experiments, places, on_progress)

    return runner


def processes(jobs: int, *, threads: int | None = None) -> Runner:
    """Run in several processes of this machine; progress is told of finished runs only.

    Args:
        jobs: how many work at once.
        threads: torch threads per run; None means each process's share of the cores.

    Raises:
        SecateurError: `jobs` or `threads` is below 1.
    """
    at_least_one("jobs", jobs)
    at_least_one("threads", threads)
    share = threads or max(1, (os.cpu_count() or 1) // jobs)

    def runner(experiments: Sequence[Experiment], places: Places, on_progress: OnProgress | None) -> Outcomes:
        return _parallel(experiments, places, jobs, share, on_progress)

    return runner


def run_at(
    experiment: Experiment,
    places: Places,
    dataset: data.Dataset | None = None,
    on_progress: OnProgress | None = None,
) -> Result:
    """Run one experiment where `places` says; see `run`."""
    return run(
        experiment,
        root=places.root,
        data_dir=places.data_dir,
        dataset=dataset,
        device=places.device,
        save_every=places.save_every,
        on_progress=on_progress,
    )


def at_least_one(name: str, value: int | None) -> None:
    """Refuse a count below 1.

    Raises:
        SecateurError: naming the argument and its value.
    """
    if value is not None and value < 1:
        raise SecateurError(f"`{name}` must be at least 1, got {value}.")


def _one_by_one(experiments: Sequence[Experiment], places: Places, on_progress: OnProgress | None) -> Outcomes:
    dataset, of = None, None
    for experiment in experiments:
        key = source(experiment)
        if key != of:  # methods of one seed share the split: load it once
            dataset, of = None, key
        try:
            if dataset is None and not (places.root / experiment.name / "result.json").exists():
                dataset = load_data(experiment, data_dir=places.data_dir, device=places.device)
            yield experiment, run_at(experiment, places, dataset, on_progress)
        except SecateurError as problem:
            yield experiment, str(problem)
        except OSError as problem:  # a full disk, a directory that went away
            yield experiment, told(problem)


def _parallel(
    experiments: Sequence[Experiment], places: Places, jobs: int, threads: int, on_progress: OnProgress | None
) -> Outcomes:
    # Spawned, not forked: a forked child of a process that has used OpenMP may hang.
    context = multiprocessing.get_context("spawn")
    started = threads, models.admitted(), data.admitted()
    others = {child.pid for child in multiprocessing.active_children()}
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=started) as pool:
        futures = {pool.submit(run_at, experiment, places): experiment for experiment in experiments}
        try:
            for future in as_completed(futures):
                experiment = futures[future]
                problem = future.exception()
                if isinstance(problem, BrokenProcessPool):
                    problem = SecateurError("its process died (killed, or out of memory). Run again with fewer jobs.")
                if isinstance(problem, OSError):  # a full disk, a directory that went away
                    problem = SecateurError(told(problem))
                if problem is not None and not isinstance(problem, SecateurError):
                    raise problem
                if on_progress is not None:
                    steps = experiment.recipe.steps
                    on_progress(Progress(experiment, "done", steps, steps))
                yield experiment, str(problem) if problem is not None else future.result()
        except BaseException:
            # Interrupted: do not wait for what is running. Checkpoints make that safe at any moment.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                if child.pid not in others:
                    child.terminate()
            raise


def _start_worker(threads: int, networks: Sequence[str], sets: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process: end without a traceback
    torch.set_num_threads(threads)
    _ignore_outcomes()
    for name in networks:
        models.admit(name)
    for name in sets:
        data.admit(name)


def _ignore_outcomes() -> None:
    for kind in OF_THE_OUTCOME:
        warnings.simplefilter("ignore", kind)


@contextmanager
def quiet(threads: int) -> Iterator[None]:
    """Run with so many threads, and without a warning per emptied layer: they stand in each result."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            _ignore_outcomes()
            yield
    finally:
        torch.set_num_threads(before)
