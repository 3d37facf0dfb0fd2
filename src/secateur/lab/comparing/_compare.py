"""Several methods side by side on equal terms: the same recipe, seeds, first weights and batches for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch

from secateur._base.errors import SecateurError
from secateur._catalogue import catalogue
from secateur.lab.comparing._runners import Places, Runner, at_least_one, one_by_one, processes
from secateur.lab.experiment import DENSE, Experiment, dense, pretraining, suited, tags_of
from secateur.lab.running import OnProgress, Result


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

    "dense" becomes density 1 without any of the fields that speak of pruning, so that all comparisons share its runs;
    the others are as their methods are meant to be run (`suited`).

    Raises:
        SecateurError: there is no such method.

    >>> from secateur.lab.experiment import RECIPES
    >>> base = Experiment("lenet-300-100", "digits", "snip", 0.05, RECIPES["demo"])
    >>> [(e.method, e.density, e.seed) for e in grid(base, ["snip", "dense"], [0, 1])]
    [('snip', 0.05, 0), ('dense', 1.0, 0), ('snip', 0.05, 1), ('dense', 1.0, 1)]
    """
    return [_with(base, method, seed) for seed in seeds for method in methods]


def _with(base: Experiment, method: str, seed: int) -> Experiment:
    return dense(base, seed=seed) if method == DENSE else suited(replace(base, method=method, seed=seed))


def needed_first(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Return the runs that some of the experiments start from and that are not among them, each once and in order."""
    before: dict[Experiment, None] = {}
    for one in experiments:
        chain = []
        while (earlier := pretraining(one)) is not None:
            chain.append(one := earlier)
        before |= dict.fromkeys(reversed(chain))
    return [one for one in before if one not in experiments]


def compare(
    experiments: Sequence[Experiment],
    *,
    root: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    save_every: float = 20.0,
    jobs: int = 1,
    threads: int | None = None,
    runner: Runner | None = None,
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
        runner: who runs them instead, for instance a cluster (`secateur.lab.cluster`); `jobs` and `threads` are
            then its own affair.
        on_progress: is told how it goes; with several jobs only of finished runs.

    Raises:
        SecateurError: `jobs` or `threads` is below 1, or stands beside a `runner`.
    """
    at_least_one("jobs", jobs)
    if runner is not None and (jobs != 1 or threads is not None):
        raise SecateurError(f"`jobs` and `threads` are not for a `runner` of your own, got {jobs} and {threads}.")
    if runner is None:
        runner = one_by_one(threads=threads) if jobs == 1 else processes(jobs, threads=threads)
    places = Places(Path(root), None if data_dir is None else Path(data_dir), str(device), save_every)
    found: dict[Experiment, Result | str] = {}
    for some in _waves(experiments):
        left = [one for one in some if not _failed_before(one, found)]
        found |= dict(runner(left, places, on_progress))
    ordered = {one: found.get(one) or _failed_before(one, found) for one in experiments}
    return Comparison(rows(ordered), {key: text for key, text in ordered.items() if isinstance(text, str)})


def _waves(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Put dense runs first where others may start from them, so that two at a time do not wait for one another."""
    known = catalogue()  # a method that is in none is the runner's to refuse, beside the results of the others
    programs = (one for one in experiments if one.method in known and "program" in tags_of(one))
    starts = any(programs) or any(pretraining(one) is not None for one in experiments)
    first = needed_first(experiments) + [one for one in experiments if starts and one.method == DENSE]
    waves = [first, [one for one in experiments if one not in first]]
    return [wave for wave in waves if wave]


def _failed_before(experiment: Experiment, found: Mapping[Experiment, Result | str]) -> str:
    """Say why an experiment cannot start; nothing where it can."""
    before = pretraining(experiment)
    outcome = None if before is None else found.get(before)
    return f"its pre-training failed: {outcome}" if isinstance(outcome, str) else ""


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
