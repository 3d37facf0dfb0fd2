"""Run what a sheet still lacks, record each piece as it comes, and then the controls of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from secateur.lab.comparing import Comparison
from secateur.lab.experiment import Experiment, check, pretraining
from secateur.lab.referee._deployed import deployed
from secateur.lab.referee._plan import Plan, controls, plans, runs_of
from secateur.lab.referee._record import Line, keep_lines, key, line_of, read_lines
from secateur.lab.referee._setting import Setting
from secateur.lab.running import Result

#: Runs experiments and gathers their results; `secateur.lab.comparing.compare` with everything but them bound.
RunAll = Callable[[Sequence[Experiment]], Comparison]

_AT_ONCE = 12  # runs between two writes of the record


def fill(
    setting: Setting,
    path: Path,
    run_all: RunAll,
    *,
    methods: Sequence[str],
    densities: Sequence[float],
    seeds: int,
    root: Path,
) -> list[Line]:
    """Run what the record of a setting lacks; return all lines of it.

    Args:
        setting: the sheet.
        path: its record, which is written after every dozen of runs.
        run_all: runs a list of experiments.
        methods, densities, seeds: what is asked for; see `plans`.
        root: where runs are kept: the seconds of dense runs that others start from are read there.

    Raises:
        SecateurError: something in it does not exist; nothing was run.
        ArtefactError: the record is damaged.
    """
    wanted = plans(setting, methods, densities, seeds)
    known = read_lines(path)
    left = [plan for plan in wanted if key(plan) not in known]
    _run(left, path, run_all, root)
    found = read_lines(path)
    drawn = [controls(plan, found[key(plan)].layers) for plan in wanted if key(plan) in found]
    _run([plan for plan in drawn if plan is not None and key(plan) not in found], path, run_all, root)
    return list(read_lines(path).values())


def _run(left: Sequence[Plan], path: Path, run_all: RunAll, root: Path) -> None:
    """Run plans in portions and record them; those that cannot be built are lines that say why."""
    possible, lines = [], []
    for plan in left:
        why = _why_not(plan.experiment)
        if why:
            lines.append(line_of(plan, why, {}))
        else:
            possible.append(plan)
    if lines:
        keep_lines(path, lines)
    for some in _portions(possible):
        comparison = run_all(runs_of(some))
        results = {result.experiment: result for row in comparison.rows for result in row.results}
        fresh = []
        for plan in some:
            outcome = results.get(plan.experiment, comparison.failures.get(plan.experiment))
            if outcome is not None:
                fresh.append(_line(plan, outcome, root))
        keep_lines(path, fresh)


def _line(plan: Plan, outcome: Result | str, root: Path) -> Line:
    before = pretraining(plan.experiment)
    spent = {} if before is None or isinstance(outcome, str) else {before.name: _seconds(root / before.name)}
    line = line_of(plan, outcome, spent)
    if isinstance(outcome, str) or plan.experiment.seed != 0 or plan.of:
        return line
    found = deployed(outcome)
    if found is None:
        return line
    return replace(line, dense_ms=round(found.dense, 4), sparse_ms=round(found.sparse, 4))


def _seconds(directory: Path) -> float:
    return float(Result.load(directory).facts["seconds"]["train"])


def _why_not(experiment: Experiment) -> str:
    """Say why an experiment cannot be begun; nothing where it can."""
    try:
        check(experiment)
    except ValueError as problem:
        return str(problem)
    return ""


def _portions(planned: Sequence[Plan]) -> Iterator[list[Plan]]:
    rest = iter(planned)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
