"""Results as sentences, as a table, as JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from statistics import mean
from typing import Any

from secateur._base.files import write_whole
from secateur.cli.text import Table, console
from secateur.lab.comparing import Comparison, Row, deviation
from secateur.lab.experiment import DENSE
from secateur.lab.running import Result
from secateur.masks import density_text


def print_result(comparison: Comparison) -> None:
    """Write one finished run: what it was, what came out, where it is."""
    for row in comparison.rows:
        for result in row.results:
            _print_one(result)


def _print_one(result: Result) -> None:
    facts, asked = result.facts, result.experiment
    best, seconds, sizes, engine = facts["best"], facts["seconds"], facts["bytes"], facts["engine"]
    times = {"training": "train", "pruning": "prune", "evaluating": "evaluate"}
    lines = {
        "kept": f"{facts['kept']:,} of {facts['prunable']:,}: {density_text(facts['density'])}",
        "test error": f"{console.percent(facts['test_error'])} after the last of {facts['steps']:,} steps "
        f"({facts['epochs']:.4g} epochs); best {console.percent(best['test_error'])} at epoch {best['epoch']:.4g}",
        "validation": console.percent(facts["validation_error"]),
        "size": f"{console.size(sizes['dense'])} dense, {console.size(sizes['packed'])} packed",
        "time": ", ".join(f"{console.duration(seconds[key])} {word}" for word, key in times.items()),
        "engine": f"{engine['name']} ({engine['why']})",
        "run": str(result.directory),
    }
    if facts["empty"]:
        lines["empty"] = f"{', '.join(facts['empty'])}: nothing passes through these layers"
    console.say(f"{asked.method} · {asked.model} · {facts['data']['title']} · seed {facts['seed']}")
    for what, text in lines.items():
        console.say(f"  {what:<11} {text}")


def print_comparison(comparison: Comparison) -> None:
    """Write one line per method: error over the seeds, what is kept, bytes, time."""
    if not comparison.rows:
        return
    first = comparison.rows[0].results[0].facts
    experiment = comparison.rows[0].experiment
    seeds = max(len(row.results) for row in comparison.rows)
    title = (
        f"{experiment.model} on {first['data']['title']}, {first['steps']:,} steps ({first['epochs']:.3g} epochs), "
        f"{seeds} seed{'s' if seeds > 1 else ''}"
    )
    columns = ("method", ">test error", ">best", ">kept", ">density", ">bytes", ">training", ">runs")
    table = Table(title, columns, notes=_notes(comparison))
    for row in comparison.rows:
        table.add(
            row.experiment.method,
            console.spread(row.errors()),
            console.spread(row.best_errors()),
            f"{row.mean_of(lambda result: result.facts['kept']):,.0f}",
            console.percent(row.mean_of(lambda result: result.facts["density"]), 1),
            console.size(row.mean_of(lambda result: result.facts["bytes"]["packed"])),
            console.duration(row.mean_of(lambda result: result.facts["seconds"]["train"])),
            len(row.results),
        )
    console.show(table)


def print_failures(comparison: Comparison) -> None:
    """Write what went wrong, each reason once, to stderr."""
    names: dict[str, list[str]] = {}
    for experiment, problem in comparison.failures.items():
        names.setdefault(problem, []).append(experiment.name)
    for problem, failed in names.items():
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        console.complain(f"{failed[0]}{more} failed: {problem}")


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything as JSON-ready data: a row per method, each run's result.json, and the failures."""
    return {
        "format": "secateur.run/1",
        "rows": [_row(row) for row in comparison.rows],
        "results": [
            {"directory": str(result.directory), **result.facts} for row in comparison.rows for result in row.results
        ],
        "failures": [
            {"run": experiment.name, "problem": problem} for experiment, problem in comparison.failures.items()
        ],
    }


_COLUMNS = ("method", "model", "data", "asked_density", "seed", "density", "kept", "prunable", "test_error")
_MORE = ("best_test_error", "validation_error", "packed_bytes", "train_seconds", "steps", "directory")


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write a row per finished run, with its heading, as comma-separated values; errors are fractions."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow((*_COLUMNS, *_MORE))
    for result in (result for row in comparison.rows for result in row.results):
        facts, asked = result.facts, result.experiment
        table.writerow(
            (asked.method, asked.model, asked.data, asked.density, facts["seed"], facts["density"], facts["kept"],
             facts["prunable"], facts["test_error"], facts["best"]["test_error"], facts["validation_error"],
             facts["bytes"]["packed"], facts["seconds"]["train"], facts["steps"], str(result.directory))
        )  # fmt: skip
    write_whole(path, text.getvalue().encode())


def _row(row: Row) -> dict[str, Any]:
    def spread(values: list[float]) -> dict[str, float | None]:
        return {"mean": mean(values), "std": deviation(values)}

    return {
        "method": row.experiment.method,
        "density": row.experiment.density,
        "seeds": [result.experiment.seed for result in row.results],
        "test_error": spread(row.errors()),
        "best_test_error": spread(row.best_errors()),
        "kept": row.mean_of(lambda result: result.facts["kept"]),
        "bytes": row.mean_of(lambda result: result.facts["bytes"]["packed"]),
        "train_seconds": row.mean_of(lambda result: result.facts["seconds"]["train"]),
    }


def _notes(comparison: Comparison) -> tuple[str, ...]:
    notes = [
        "Error after the last step, mean ± standard deviation over the seeds; best is chosen on the test set. "
        "Bytes: fp32, kept weights and one bit per prunable one."
    ]
    for row in comparison.rows:
        emptied = sum(bool(result.facts["empty"]) for result in row.results)
        if emptied and row.experiment.method != DENSE:
            notes.append(f"{row.experiment.method}: {emptied} of {len(row.results)} runs have an empty layer.")
    return tuple(notes)
