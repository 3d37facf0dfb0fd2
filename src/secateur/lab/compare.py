"""Several methods side by side on equal terms: the same recipe, seeds, first weights and batches for each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch

from secateur.errors import EmptyLayerWarning, SecateurError
from secateur.lab import data
from secateur.lab.engine import Engine
from secateur.lab.experiment import DENSE, Experiment
from secateur.lab.run import OnProgress, Progress, Result, run


@dataclass(frozen=True)
class Row:
    """One experiment over its seeds."""

    experiment: Experiment
    results: tuple[Result, ...]

    def errors(self) -> list[float]:
        """Test errors after the last step, one per seed."""
        return [result.test_error for result in self.results]

    def best_errors(self) -> list[float]:
        """Lowest test errors of all evaluations, one per seed (chosen on the test set: optimistic)."""
        return [result.best_test_error for result in self.results]

    def mean_of(self, value: Callable[[Result], float]) -> float:
        """Average a number over the seeds."""
        return mean(value(result) for result in self.results)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: one row per method, and what went wrong, by experiment."""

    rows: tuple[Row, ...]
    failures: Mapping[Experiment, str]


def grid(base: Experiment, methods: Sequence[str], seeds: Sequence[int]) -> list[Experiment]:
    """Return `base` with every method and every seed, seeds outermost so that each data split is made once.

    "dense" becomes density 1 without any of the fields that speak of pruning, so that all comparisons share its runs.

    >>> from secateur.lab.recipe import RECIPES
    >>> base = Experiment("lenet-300-100", "digits", "snip", 0.05, RECIPES["demo"])
    >>> [(e.method, e.density, e.seed) for e in grid(base, ["snip", "dense"], [0, 1])]
    [('snip', 0.05, 0), ('dense', 1.0, 0), ('snip', 0.05, 1), ('dense', 1.0, 1)]
    """
    return [
        dense(base, seed=seed) if method == DENSE else replace(base, method=method, seed=seed)
        for seed in seeds
        for method in methods
    ]


def dense(base: Experiment, *, seed: int) -> Experiment:
    """Return the run without pruning that belongs beside `base`: everything but the pruning is the same.

    Where the sparse engine is asked for it gets `auto`: nothing is sparse in a dense run.
    """
    return Experiment(
        model=base.model,
        data=base.data,
        method=DENSE,
        density=1.0,
        recipe=base.recipe,
        seed=seed,
        initialiser=base.initialiser,
        engine=Engine.AUTO if base.engine is Engine.SPARSE else base.engine,
    )


def compare(
    experiments: Sequence[Experiment],
    *,
    root: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    save_every: float = 20.0,
    jobs: int = 1,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Run experiments and gather them in rows that differ in more than the seed.

    Finished runs are taken from their directories, so an interrupted comparison goes on where it was. A run that
    fails does not stop the others.

    Args:
        experiments: what to run, for instance a `grid`.
        root, data_dir, device, save_every: as in `run`.
        jobs: how many processes work at once.
        threads: torch threads per run; None means torch's own number, or with several jobs each one's share of the
            cores. Results repeat bit for bit for one number of threads.
        on_progress: is told how it goes; with several jobs only of finished runs.

    Raises:
        SecateurError: `jobs` or `threads` is below 1.
    """
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise SecateurError(f"`{name}` must be at least 1, got {value}.")
    places = _Places(root, data_dir, str(device), save_every)
    if jobs > 1:
        share = threads or max(1, (os.cpu_count() or 1) // jobs)
        found = dict(_parallel(experiments, places, jobs, share, on_progress))
    else:
        with _quiet(threads or torch.get_num_threads()):
            found = dict(_one_by_one(experiments, places, on_progress))
    ordered = {experiment: found[experiment] for experiment in experiments}
    return Comparison(rows(ordered), {key: text for key, text in ordered.items() if isinstance(text, str)})


def rows(found: Mapping[Experiment, Result | str]) -> tuple[Row, ...]:
    """Group results by everything but the seed, in the order of first appearance."""
    groups: dict[Experiment, list[Result]] = {}
    for experiment, outcome in found.items():
        if isinstance(outcome, Result):
            groups.setdefault(replace(experiment, seed=0), []).append(outcome)
    return tuple(Row(experiment, tuple(results)) for experiment, results in groups.items())


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n − 1); None for fewer than two values.

    >>> deviation([1.0, 3.0])
    1.4142135623730951
    """
    return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class _Places:
    root: str | Path
    data_dir: str | Path | None
    device: str
    save_every: float


Outcomes = Iterator[tuple[Experiment, Result | str]]


def _one_by_one(experiments: Sequence[Experiment], places: _Places, on_progress: OnProgress | None) -> Outcomes:
    dataset, of = None, None
    for experiment in experiments:
        key = (experiment.data, experiment.seed)
        if key != of:  # methods of one seed share the split: load it once
            dataset, of = None, key
        try:
            if dataset is None and not (Path(places.root) / experiment.name / "result.json").exists():
                dataset = data.load(
                    experiment.data, data_dir=places.data_dir, seed=experiment.seed, device=places.device
                )
            yield experiment, _run(experiment, places, dataset, on_progress)
        except SecateurError as problem:
            yield experiment, str(problem)


def _parallel(
    experiments: Sequence[Experiment], places: _Places, jobs: int, threads: int, on_progress: OnProgress | None
) -> Outcomes:
    # Spawned, not forked: a forked child of a process that has used OpenMP may hang.
    context = multiprocessing.get_context("spawn")
    others = {child.pid for child in multiprocessing.active_children()}
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(threads,)) as pool:
        futures = {pool.submit(_run, experiment, places): experiment for experiment in experiments}
        try:
            for future in as_completed(futures):
                experiment = futures[future]
                problem = future.exception()
                if isinstance(problem, BrokenProcessPool):
                    problem = SecateurError("its process died (killed, or out of memory). Run again with fewer jobs.")
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


def _run(
    experiment: Experiment,
    places: _Places,
    dataset: data.Dataset | None = None,
    on_progress: OnProgress | None = None,
) -> Result:
    return run(
        experiment,
        root=places.root,
        data_dir=places.data_dir,
        dataset=dataset,
        device=places.device,
        save_every=places.save_every,
        on_progress=on_progress,
    )


def _start_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process: end without a traceback
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", EmptyLayerWarning)


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """Run with so many threads, and without a warning per emptied layer: they stand in each result."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmptyLayerWarning)
            yield
    finally:
        torch.set_num_threads(before)
