"""`secateur report`: what masks did to a network, as a table or as a page."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.commands.models._shrink import opened
from secateur.cli.networks import NAMES, Network, add_network
from secateur.cli.text import Parser, UsageError, console, values

if TYPE_CHECKING:
    from secateur.masks import Masks
    from secateur.reporting import Curve, Report

ABOUT = f"""\
Says what pruning did to a network: kept weights, multiplications, bytes, dead units and effective sparsity of
each layer, and milliseconds of a forward here, dense, held, sparse and shrunk, timed in turns.

  secateur report runs/NAME --html report.html
  secateur report weights.safetensors --model my_package.models:resnet18 --input 3x224x224

Masks are those of the run; of a checkpoint, what is not zero. The page is one file that opens offline.

{NAMES}"""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("report", help="what pruning did to a network", description=ABOUT)
    parser.add_argument("what", metavar="CHECKPOINT_OR_RUN", help="safetensors weights, a run, or a network")
    parser.add_argument(
        "--model", metavar="NAME", help="whose weights these are: a model's name or package.module:factory"
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page as well")
    parser.add_argument("--seconds", metavar="S", type=values.seconds, default=2.0, help="time to measure for")
    add_network(parser, batch=32)
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.cli.runs import busy
    from secateur.reporting import report

    if args.html is not None and not args.html.parent.is_dir():
        raise UsageError(f"--html: there is no directory {console.shown(args.html.parent)}.")
    found = opened(args)
    with busy(f"timing {args.what}", quiet=args.json):
        told = report(found.model, _masks(found), found.inputs, seconds=args.seconds, curves=curves_of(found.run))
    if args.html is not None:
        told.save(args.html)
    if args.json:
        console.emit({"format": "secateur.report/1", "what": args.what, "batch": args.batch} | _to_json(told))
    else:
        console.say(str(told))
        if args.html is not None:
            console.say(f"Written to {args.html} ({console.size(args.html.stat().st_size)}).")
    return 0


def curves_of(run: Path | None) -> list[Curve]:
    """Return how the training of a finished run went: its loss and its errors."""
    from secateur.lab.running import RESULT, Result
    from secateur.reporting import Curve

    if run is None or not (run / RESULT).is_file():
        return []
    facts = Result.load(run).facts
    asked = (("training loss", "curve", "loss"), ("validation error", "evaluations", "validation_error"))
    found = []
    for name, where, what in (*asked, ("test error", "evaluations", "test_error")):
        points = [(each["step"], each[what]) for each in facts.get(where, []) if each.get(what) is not None]
        found += [Curve(name, points)] if points else []
    return found


def _masks(found: Network) -> Masks | None:
    """Return the masks of the run; None where there are none, to read the zeros."""
    from secateur.lab.running import MASKS
    from secateur.masks import Masks

    if found.run is None or not (found.run / MASKS).is_file():
        return None
    return Masks.load(found.run / MASKS)


def _to_json(told: Report) -> dict[str, Any]:
    return {
        "model": told.model,
        "params": told.params,
        "kept": told.kept,
        "numel": told.numel,
        "macs": told.macs,
        "effective_macs": told.effective_macs,
        "effective_sparsity": told.effective_sparsity,
        "layers": [asdict(layer) for layer in told.layers],
        "ways": [asdict(way) for way in told.ways],
    }
