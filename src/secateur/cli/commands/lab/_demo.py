"""`secateur demo`: the main job on data that need no download, in under a minute."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from secateur.cli.commands.lab._run import GOES_ON, add_places
from secateur.cli.text import Parser, console, values

ABOUT = """\
Prunes LeNet-300-100 to 5 % of its weights by SNIP before it is trained on scikit-learn's digits, and puts
it beside the dense network and beside random pruning at the same epochs and seeds. Prints the table and
draws which input pixels kept their connections (the view of Figure 2 in arXiv 1810.02340)."""

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
    if args.json:
        console.emit(report.to_json(comparison) | {"picture": str(picture) if pruned else None})
    else:
        report.print_comparison(comparison)
        if pruned:
            console.say(f"Kept connections per input pixel: {picture}")
    return 1 if comparison.failures else 0
