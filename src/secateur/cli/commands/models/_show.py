"""`secateur show PATH`: what is in a run, a mask file or a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._base.errors import SecateurError
from secateur.cli.text import Parser, Table, UsageError, console

if TYPE_CHECKING:
    from secateur.lab.experiment import Experiment

ABOUT = """\
Shows what is in PATH: densities per layer, empty layers, and effective numbers; of a folder of runs, a line each.

PATH is a folder of runs, a run's directory, a mask file written by Masks.save, or a checkpoint (.safetensors; a .pt
or .pth file is opened only as far as it holds plain tensors, at the top or under a key such as
state_dict or model). In a checkpoint a weight that is exactly zero counts as pruned.

A row is all the weights into one output, a column all the weights that leave one input.
"effective" counts the weights on some path of kept weights from the network's input to its output;
it is computed for stacks of linear layers and n/a elsewhere."""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser(
        "show", help="what is in a run, a mask file or a checkpoint", description=ABOUT
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="a run's directory or a file")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    path: Path = args.path
    if not path.exists():
        raise UsageError(f"there is nothing at {console.shown(path)}.{_nearest_path(path)}")
    if path.is_dir() and (runs := _runs_in(path)):
        _list(path, runs, args)
        return 0
    report = _of_run(path) if path.is_dir() else _of_file(path)
    if args.json:
        console.emit(report)
    else:
        _print(report)
    return 0


def _runs_in(path: Path) -> list[Path]:
    """The runs right below a directory that is none itself."""
    from secateur.lab.running import EXPERIMENT

    if (path / EXPERIMENT).exists():
        return []
    return sorted(below for below in path.iterdir() if (below / EXPERIMENT).is_file())


def _list(path: Path, runs: list[Path], args: argparse.Namespace) -> None:
    """Write a line per run: what was asked for, how far it is, what came out."""
    found = [_listed(run) for run in runs]
    if args.json:
        console.emit({"path": str(path), "kind": "runs", "runs": found})
        return
    columns = "method", "model", "data", ">density", ">seed", "state", ">test error", "run"
    table = Table(f"{console.shown(path)}  ({len(runs)} runs)", columns)
    for run in found:
        error = None if run["test_error"] is None else console.percent(run["test_error"])
        words = run["method"], run["model"], run["data"], run["density"], run["seed"]
        table.add(*words, run["state"], error, run["run"])
    console.show(table)


def _listed(run: Path) -> dict[str, Any]:
    from secateur.lab.running import RESULT, Result, experiment_in, state_of

    wanted = "method", "model", "data", "density", "seed"
    try:
        experiment = experiment_in(run)
        error = Result.load(run).test_error if (run / RESULT).exists() else None
        return {name: getattr(experiment, name) for name in wanted} | {
            "state": state_of(run), "test_error": error, "run": run.name
        }  # fmt: skip
    except SecateurError as problem:  # of another version, or damaged: one such run hides no other
        return dict.fromkeys(wanted) | {"state": f"unreadable: {problem}"[:60], "test_error": None, "run": run.name}


def _of_run(path: Path) -> dict[str, Any]:
    from secateur.lab.running import EXPERIMENT, MASKS, RESULT, Result, experiment_in, state_of, why_diverged

    if not (path / EXPERIMENT).exists():
        raise UsageError(f"{console.shown(path)} is not a run's directory: it holds no {EXPERIMENT}.")
    experiment, state = experiment_in(path), state_of(path)
    report: dict[str, Any] = {"path": str(path), "kind": "run", "state": state, "experiment": experiment.to_json()}
    if state == "diverged":
        report["why"] = why_diverged(path)
    if (path / RESULT).exists():
        report["result"] = dict(Result.load(path).facts)
    if (path / MASKS).exists():
        report |= _of_file(path / MASKS, chain=_is_stack(experiment)) | {"path": str(path), "kind": "run"}
    return report


def _of_file(path: Path, *, chain: bool | None = None) -> dict[str, Any]:
    from secateur.lab.running import is_chain, layer_uses

    kind, key, masks = _masks_in(path)
    effective = is_chain(masks) if chain is None else chain and is_chain(masks)
    uses = layer_uses(masks, effective=effective)
    kept, numel = sum(use.kept for use in uses), sum(use.numel for use in uses)
    return {
        "path": str(path),
        "kind": kind,
        **({"key": key} if key else {}),
        "kept": kept,
        "prunable": numel,
        "density": kept / numel if numel else 1.0,
        "layers": [asdict(use) | {"density": use.kept / use.numel if use.numel else 1.0} for use in uses],
        "empty": [use.name for use in uses if use.numel and not use.kept],
        "effective": sum(use.effective or 0 for use in uses) if effective else None,
        "assumed": "the layers follow one another in the order of the file" if effective and chain is None else None,
    }


def _masks_in(path: Path) -> tuple[str, str, Mapping[str, Any]]:
    """Tell what a file is, and under which key; return its masks: stored, or which weights are not zero."""
    from secateur.cli.commands.models._opened import masks_in, weights_in

    masks = masks_in(path)
    return ("masks", "", masks) if masks is not None else ("checkpoint", *weights_in(path))


def _is_stack(experiment: Experiment) -> bool:
    """Tell whether a run's model is a plain stack of Linear layers; one that is not known is none."""
    from torch import nn

    from secateur.lab.experiment import skeleton

    try:
        leaves = [module for module in skeleton(experiment).modules() if not list(module.children())]
    except (SecateurError, RuntimeError, ValueError):
        return False
    return all(isinstance(leaf, nn.Linear | nn.ReLU | nn.Flatten | nn.Identity) for leaf in leaves)


def _nearest_path(path: Path) -> str:
    from secateur._base.errors import nearest

    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, siblings)


def _print(report: Mapping[str, Any]) -> None:
    from secateur.masks import density_text

    console.say(f"{console.shown(report['path'])}  ({report['kind']})")
    if "key" in report:
        console.say(f"(the weights are under the key {report['key']!r})")
    if "experiment" in report:
        _print_run(report)
    if "layers" not in report:
        return
    table = Table(
        "",
        ("parameter", ">shape", ">kept", ">of", ">density", ">empty rows", ">empty columns", ">effective"),
    )
    for layer in report["layers"]:
        shape = "×".join(str(size) for size in layer["shape"])
        effective = "n/a" if report["effective"] is None else layer["effective"]
        numbers = f"{layer['kept']:,}", f"{layer['numel']:,}", console.percent(layer["density"])
        table.add(layer["name"], shape, *numbers, layer["empty_rows"], layer["empty_columns"], effective)
    console.show(table)
    console.say(f"{report['kept']:,} of {report['prunable']:,} weights: {density_text(report['density'])}")
    if report["effective"] is not None:
        console.say(f"{report['effective']:,} of them lie on a path from input to output.")
    if report["assumed"]:
        console.say(f"(assumed: {report['assumed']})")
    if report["empty"]:
        console.say(f"Empty layers: {', '.join(map(console.shown, report['empty']))}. Nothing passes through them.")


def _print_run(report: Mapping[str, Any]) -> None:
    fields = {name: value for name, value in report["experiment"].items() if name not in {"kind", "recipe"}}
    recipe = {name: value for name, value in report["experiment"]["recipe"].items() if name != "kind"}
    for head, words in (("asked", fields), ("recipe", recipe)):
        told = "  ".join(f"{name} {console.shown(_worded(value))}" for name, value in words.items())
        console.say(f"  {head}: {told}")
    console.say(f"  state: {report['state']}")
    if "why" in report:
        console.say(f"  {console.shown(report['why'])}")
    if "result" in report:
        result = report["result"]
        best = result["best"]
        console.say(
            f"  test error {console.percent(result['test_error'])} after the last step, "
            f"{console.percent(best['test_error'])} at best (step {best['step']:,})"
        )


def _worded(value: Any) -> str:
    """Say what an experiment holds, and a value within it by its kind, as a person would write it.

    >>> _worded({"kind": "ramp", "peak": 0.1, "steps": 540}), _worded([["rounds", 20], ["layerwise", True]])
    ('ramp (peak 0.1, steps 540)', 'rounds 20, layerwise yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        kind = str(value.get("kind", ""))
        inner = ", ".join(f"{name} {_worded(each)}" for name, each in value.items() if name != "kind")
        return f"{kind} ({inner})".strip() if kind and inner else kind or inner
    if isinstance(value, list | tuple):
        apart = ", " if any(isinstance(each, list | tuple | Mapping) for each in value) else " "
        return apart.join(_worded(each) for each in value) or "none"
    return str(value)
