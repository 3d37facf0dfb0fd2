"""`secateur run`: one experiment, or several methods and seeds side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from secateur.cli.text import Parser, console, values

ABOUT = """\
Prunes a network, trains what is left, and says what came out. Whether it is pruned before, during or
after training is the method's affair.

  secateur run --data mnist --density 0.05
  secateur run --data mnist --sparsity 98% --protocol paper --recipe paper-mnist
  secateur run --compare snip,random,magnitude,dense --seeds 5
  secateur run --compare snip,random --density 10%,5%,1% --seeds 3 --csv errors.csv --plot errors.png
  secateur run --model nets:small --data mine:load --density 0.1     (imports nets and mine: runs their code)

Every run has a directory of its own under --runs, named by what was asked for. Give the same command again
to go on after an interruption, or to see a finished result at once."""

#: What is said when runs are interrupted.
GOES_ON = "The same command goes on from the last checkpoint."

RECIPES = "demo (digits, a second), short (MNIST, about a minute), gentle, paper-mnist, paper-cifar, paper-adam, adam"


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("run", help="prune, train, compare", description=ABOUT)
    _what(parser.add_argument_group("what is pruned and trained"))
    _protocol(parser.add_argument_group("how it is scored"))
    _training(parser.add_argument_group("how it is trained"))
    many = parser.add_argument_group("side by side")
    many.add_argument(
        "--compare",
        metavar="LIST",
        type=values.names,
        help="methods with commas between them; dense prunes nothing",
    )
    many.add_argument("--csv", metavar="FILE", type=Path, help="write a row per run, to be read by other programs")
    many.add_argument("--plot", metavar="FILE", type=Path, help="draw the errors over the densities (.png, .svg, .pdf)")
    many.add_argument("--seeds", metavar="N", type=values.positive, help="run N seeds, counted up from --seed")
    many.add_argument("--jobs", metavar="N", type=values.positive, default=1, help="runs at a time, as processes")
    places = parser.add_argument_group("where, and what is written")
    add_places(places)
    parser.set_defaults(execute=execute, parser=parser, stopped=GOES_ON)


def add_places(group: Any) -> None:
    """Declare the options that change nothing in a result."""
    group.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where runs are kept")
    group.add_argument("--data-dir", metavar="DIR", help="where the data sets are [default: $SECATEUR_DATA, cache]")
    group.add_argument("--device", metavar="NAME", default="cpu", help="where to compute: cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--threads",
        metavar="N",
        type=values.positive,
        help="threads per run [default: 1 for networks under 300,000 parameters and on a cluster, "
        "torch's own number above]",
    )
    group.add_argument(
        "--on",
        choices=("local", "ray"),
        default="local",
        help="who runs it: this machine, or a Ray cluster, from which all files come back to --runs",
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the cluster's head, for --on ray [default: $RAY_ADDRESS, a cluster on this machine, or a new one on it]",
    )
    group.add_argument(
        "--save-every", metavar="SECONDS", type=values.seconds, default=20.0, help="time between checkpoints"
    )
    group.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    group.add_argument("--quiet", action="store_true", help="draw no progress bars")


def add_bf16(group: Any) -> None:
    """Declare the option for runs on a GPU."""
    group.add_argument(
        "--bf16",
        action="store_true",
        help="matrix products and convolutions in bfloat16, weights in float32: for GPUs, by torch",
    )


def _what(group: Any) -> None:
    group.add_argument(
        "--model",
        metavar="NAME",
        default="lenet-300-100",
        help="the network; package.module:factory for one of your own, whose code runs",
    )
    group.add_argument(
        "--data",
        metavar="NAME",
        default="digits",
        help="the data set; package.module:factory for your own, whose code runs",
    )
    group.add_argument("--method", metavar="NAME", default="snip", help="see `secateur methods`; dense prunes nothing")
    _how_much(group)
    group.add_argument("--seed", metavar="N", type=values.natural, default=0, help="decides every random choice")
    group.add_argument(
        "--option",
        metavar="NAME=VALUE",
        type=values.option,
        action="append",
        default=[],
        help="an option of the method, as rounds=20; may be repeated",
    )


def _how_much(group: Any) -> None:
    how_much = group.add_mutually_exclusive_group()
    how_much.add_argument(
        "--density",
        metavar="D",
        type=values.densities,
        help="fraction kept, as 0.05 or 5%%; several with commas [default: 0.05]",
    )
    how_much.add_argument(
        "--sparsity", metavar="S", type=values.sparsities, dest="density", help="fraction cut, as 95%%"
    )
    group.add_argument(
        "--block",
        metavar="RxC",
        type=values.block,
        help="keep or cut blocks of R outputs and C inputs as one, as 4x1 (snip, magnitude)",
    )
    group.add_argument(
        "--effective", action="store_true", help="the density is that of weights on a path from inputs to outputs"
    )


def _protocol(group: Any) -> None:
    group.add_argument(
        "--protocol",
        choices=("common", "paper"),
        default="common",
        help="common: train the weights that were scored; paper: as SNIP's authors' code, count biases, "
        "score in eval mode, and train a second draw",
    )
    group.add_argument("--init", metavar="NAME", default="vs-x", help="initial weights: vs, vs-x, vs-h, rn, tn")
    group.add_argument("--score-init", metavar="NAME", default="", help="initial weights for scoring only")
    group.add_argument(
        "--score-batch",
        metavar="N",
        type=values.positive,
        default=0,
        help="examples scored at once [default: the recipe's batch]",
    )
    group.add_argument(
        "--score-batches",
        metavar="N",
        type=values.positive,
        default=1,
        help="how many such batches are scored",
    )


def _training(group: Any) -> None:
    group.add_argument("--recipe", metavar="NAME", help=f"{RECIPES} [default: demo for digits, else short]")
    group.add_argument("--steps", metavar="N", type=values.positive, help="squeeze or stretch the recipe to N steps")
    group.add_argument(
        "--pretrain",
        metavar="N",
        nargs="?",
        type=values.natural,
        const=True,
        help="train the dense network first, by the same recipe (in N steps), and prune that; it is a run of its "
        "own; 0 prunes the untrained one [default: as the method is meant]",
    )
    group.add_argument("--batch", metavar="N", type=values.positive, help="examples per step, in place of the recipe's")
    group.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="change the training images at random, as is usual for the data, or do not [default: as the recipe says]",
    )
    group.add_argument(
        "--engine",
        choices=("auto", "torch", "sparse"),
        default="auto",
        help="who computes the training steps",
    )
    add_bf16(group)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.cli.runs import asked, plot, report

    experiments = asked.experiments(args)
    comparison = asked.run_all(experiments, args)
    if args.csv:
        report.write_csv(comparison, args.csv)
    if args.plot:
        plot(comparison, args.plot)
    if args.json:
        console.emit(report.to_json(comparison))
    elif len(experiments) == 1:
        report.print_result(comparison)
    else:
        report.print_comparison(comparison)
        console.say(f"Runs are in {args.runs}.")
    report.print_failures(comparison)
    return 1 if comparison.failures else 0
