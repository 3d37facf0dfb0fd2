"""`secateur demo`: the main job on data that need no download, in under a minute."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from secateur.cli.commands.lab._run import GOES_ON, add_places
from secateur.cli.text import Parser, console, values

ABOUT = """\
Prunes LeNet-300-100 to 5 % of its weights by SNIP before it is trained on 1,797 digits, and puts it beside
the dense network and beside random pruning at the same epochs and seeds. Prints the table and draws which
input pixels kept their connections (the view of Figure 2 in arXiv 1810.02340). Then takes out the units that
the trained network has lost, proves that its answers stay, and writes a report to read in a browser."""

MODEL, DATA, METHODS, DENSITY = "lenet-300-100", "digits", ("snip", "random", "dense"), 0.05


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("demo", help="the main job, in under a minute", description=ABOUT)
    parser.add_argument("--seeds", metavar="N", type=values.positive, default=5, help="seeds per method")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="where the picture goes [default: RUNS/demo.png]")
    add_places(parser.add_argument_group("where, and what is written"))
    parser.set_defaults(execute=execute, parser=parser, stopped=GOES_ON, runs=Path(".demo"), jobs=1)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.cli.runs import asked, draw_inputs, report
    from secateur.lab.comparing import grid
    from secateur.lab.experiment import RECIPES, Experiment

    base = Experiment(MODEL, DATA, METHODS[0], DENSITY, RECIPES["demo"])
    comparison = asked.run_all(grid(base, METHODS, range(args.seeds)), args)
    report.print_failures(comparison)
    pruned = [row for row in comparison.rows if row.experiment.method != METHODS[-1]]
    picture = args.picture or args.runs / "demo.png"
    if pruned:
        draw_inputs(pruned, picture)
    if not args.json:
        report.print_comparison(comparison)
        if pruned:
            console.say(f"Kept connections per input pixel: {picture}")
    smaller = _smaller(pruned[0].results[0].directory, args) if pruned else None
    if args.json:
        document = report.to_json(comparison) | {"picture": str(picture) if pruned else None, "smaller": smaller}
        console.emit(document)
    elif smaller is not None:
        _tell(smaller)
    return 1 if comparison.failures else 0


def _smaller(run: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Take the dead units of a trained run out, keep what is left in an archive, and write the report."""
    from secateur.archive import compress, load
    from secateur.cli.commands.models import curves_of
    from secateur.cli.networks import network
    from secateur.cli.runs import busy
    from secateur.lab import data
    from secateur.lab.running import MASKS, WEIGHTS
    from secateur.masks import Masks
    from secateur.reporting import report
    from secateur.shrinking import shrink

    asked = argparse.Namespace(threads=None, seed=0, input=None, batch=32, runs=args.runs)
    model, inputs = network(asked, str(run)).model.eval(), data.load(DATA).test
    masks = Masks.load(run / MASKS)
    made = shrink(model, masks, inputs.x)
    file, page = args.runs / "snip.sct", args.runs / "report.html"
    compress(made, None, file)
    opened = load(file, network(asked, str(run)).model).model
    assert opened is not None  # a model was given to load into
    with busy("timing the four ways to run it", quiet=args.quiet or args.json):
        report(model, masks, inputs.x[:32], seconds=0.5, curves=curves_of(run)).save(page)
    errors = [_wrong(each.eval(), inputs) for each in (model, opened)]
    return {
        "run": str(run),
        "params": [made.certificate.before.params, made.certificate.after.params],
        "difference": made.certificate.worst,
        "wrong": errors,
        "of": len(inputs),
        "bytes": [(run / WEIGHTS).stat().st_size, file.stat().st_size],
        "file": str(file),
        "report": str(page),
    }


def _wrong(model: Any, examples: Any) -> int:
    import torch

    with torch.no_grad():
        return int((model(examples.x).argmax(1) != examples.y).sum())


def _tell(found: dict[str, Any]) -> None:
    (before, after), (dense, small) = found["params"], found["bytes"]
    one, other = found["wrong"]
    lines = {
        "proof": f"outputs differ by {found['difference']:.1g} at most; {one} and {other} of {found['of']} wrong",
        "file": f"{console.size(dense)} → {console.size(small)}, opened again: {found['file']}",
        "report": f"layer by layer and in milliseconds, to read in a browser: {found['report']}",
    }
    console.say()
    console.say(f"Dead units out of the trained network: {before:,} → {after:,} parameters, the same function")
    for what, text in lines.items():
        console.say(f"  {what:<6}  {text}")
