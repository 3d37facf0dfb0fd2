"""`secateur sensitivity`: how much of each layer of a run can go, and the smallest network within a loss."""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur._base.errors import SecateurError
from secateur.cli.networks import Network, network, run_of
from secateur.cli.text import Parser, UsageError, console, values

if TYPE_CHECKING:
    from torch import nn

    from secateur.scanning import Sensitivity, Smallest

ABOUT = """\
Cuts one layer of a trained network at a time, to ever fewer of its largest weights, and measures the error:
the scan by which Han et al. (arXiv 1506.02626) find how hard each layer may be pruned. Nothing is retrained.

  secateur sensitivity runs/NAME --png scan.png --csv scan.csv
  secateur sensitivity runs/NAME --densities 50%,20%,10%,5%
  secateur sensitivity runs/NAME --within 0.5%     and the smallest network that errs by half a point more

The error is that on the examples that the run held out, or on the test set where --on says so. --within also
prints each layer's quality: the multiple of the deviation of its weights that methods.lwc takes."""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser(
        "sensitivity", help="how much of each layer of a trained network can go", description=ABOUT
    )
    parser.add_argument("what", metavar="RUN", help="the directory of a finished run, or its name under --runs")
    parser.add_argument(
        "--densities",
        metavar="LIST",
        type=densities,
        help="kept fractions, as 50%%,20%%,0.05 [default: twelve of them]",
    )
    parser.add_argument("--within", metavar="ERROR", type=points, help="search the smallest network: by so much worse")
    parser.add_argument("--only", metavar="GLOB", action="append", help="which weights, as 'fc*'; again for more")
    parser.add_argument("--on", choices=("validation", "test"), default="validation", help="whose error is measured")
    parser.add_argument("--examples", metavar="N", type=values.positive, help="of them, the first so many")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the scan as comma-separated values")
    parser.add_argument("--png", metavar="FILE", type=Path, help="draw it")
    for option, what in (("--model", "a network"), ("--data", "data")):
        parser.add_argument(option, metavar="NAME", help=f"of a run of {what} of your own: its factory once more")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the data set is looked for first")
    parser.add_argument("--threads", metavar="N", type=values.positive, help="threads [default: torch's own number]")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser, seed=0, batch=1, input=None)


def densities(text: str) -> list[float]:
    """Read kept fractions with commas between them.

    >>> densities("50%,0.1")
    [0.5, 0.1]
    """
    return [values.density(word) for word in text.split(",")]


def points(text: str) -> float:
    """Read by how much an error may rise: `0.5%` or `0.005`.

    >>> points("0.5%"), points("0")
    (0.005, 0.0)
    """
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ArgumentTypeError(f"expected by how much the error may rise, as 0.5% or 0.005, got {text!r}")
    return found


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.cli.runs import busy
    from secateur.lab.paper import draw_sensitivity
    from secateur.scanning import DENSITIES, sensitivity, smallest

    for option, path in (("--csv", args.csv), ("--png", args.png)):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{option}: there is no directory {console.shown(path.parent)}.")
    if run_of(args, args.what) is None:
        raise UsageError(f"there is no run at {console.shown(Path(args.what))}: the scan needs its data.")
    found = network(args, args.what)
    evaluate = _error(found, args)
    with busy(f"scanning {found.name}", quiet=args.json):
        scan = sensitivity(found.model, evaluate, densities=args.densities or DENSITIES, only=args.only)
        small = None if args.within is None else smallest(found.model, evaluate, within=args.within, scan=scan)
    if args.csv is not None:
        scan.save(args.csv)
    if args.png is not None:
        draw_sensitivity(scan, args.png)
    if args.json:
        console.emit(_to_json(args, scan, small))
    else:
        _print(args, scan, small)
    return 0


def _error(found: Network, args: argparse.Namespace) -> Callable[[nn.Module], float]:
    import torch

    from secateur.lab.experiment import load_data
    from secateur.lab.running import error, experiment_in

    assert found.run is not None
    data = load_data(experiment_in(found.run), data_dir=args.data_dir, device="cpu")
    examples = data.test if args.on == "test" else data.validation
    if not len(examples):
        raise SecateurError(f"{found.run} held nothing out of its training set: measure with --on test.")
    x, y = examples.x[: args.examples], examples.y[: args.examples]

    def evaluate(model: nn.Module) -> float:
        model.eval()
        with torch.inference_mode():
            return error(model, x, y)

    return evaluate


def _print(args: argparse.Namespace, scan: Sensitivity, small: Smallest | None) -> None:
    heads = [f">{level.density:.3g}" for level in next(iter(scan.levels.values()))]
    title = f"Error on the {args.on} set, %: {100 * scan.dense:.2f} as it is; with one layer cut to a fraction:"
    table = console.Table(title, ("layer", *heads))
    for name, levels in scan.levels.items():
        table.add(name, *(f"{100 * level.error:.2f}" for level in levels))
    console.show(table)
    if small is None:
        return
    masks = small.masks
    told = (
        f"Within {100 * args.within:.3g} points: {masks.kept:,} of {masks.numel:,} weights "
        f"({masks.numel / max(1, masks.kept):.1f}×), error {100 * small.error:.2f} %, nothing retrained."
    )
    table = console.Table(told, ("layer", ">density", ">kept", ">quality"))
    for name, level in small.levels.items():
        table.add(name, f"{level.density:.3g}", f"{level.kept:,}", f"{level.quality:.3f}")
    console.show(table)


def _to_json(args: argparse.Namespace, scan: Sensitivity, small: Smallest | None) -> dict[str, Any]:
    levels = {name: [asdict(level) for level in levels] for name, levels in scan.levels.items()}
    found: dict[str, Any] = {"format": "secateur.sensitivity/1", "run": args.what, "on": args.on}
    found |= {"dense": scan.dense, "layers": levels, "sizes": dict(scan.sizes)}
    if small is not None:
        chosen = {name: asdict(level) for name, level in small.levels.items()}
        found["smallest"] = {
            "within": args.within,
            "error": small.error,
            "kept": small.masks.kept,
            "weights": small.masks.numel,
            "layers": chosen,
        }
    return found
