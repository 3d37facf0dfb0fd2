"""`secateur paper`: a published table or figure over again, by one command."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.commands.lab._run import GOES_ON, add_bf16, add_places
from secateur.cli.text import Parser, UsageError, console, values

if TYPE_CHECKING:
    from secateur.cli.runs.reproduced import Outcome
    from secateur.lab.comparing import Comparison
    from secateur.lab.experiment import Experiment
    from secateur.lab.paper import Artefact, Cell, Length, Paper, Record

ABOUT = """\
Runs the experiments behind a published table or figure and puts the numbers beside the paper's. Without
an artefact: lists what there is and what is recorded. Runs are kept and go on after an interruption, so
the same command with more seeds adds only those.

  secateur paper snip_2019                              what can be reproduced, and how it stands
  secateur paper snip_2019 table1 --quick               a few steps each: does everything run?
  secateur paper snip_2019 table1 --jobs 2              the paper's full length, two runs at a time
  secateur paper snip_2019 figure1 --only lenet-300 --seeds 20 --record
  secateur paper snip_2019 table1 --clock --record      what a training step takes, beside the dense one
  secateur paper snip_2019 page                         the documentation's page from what is recorded"""

PAGE, ALL = "page", "all"


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("paper", help="a published table or figure over again", description=ABOUT)
    parser.add_argument("paper", metavar="PAPER", nargs="?", help="which paper, as snip_2019")
    parser.add_argument("artefact", metavar="ARTEFACT", nargs="?", help=f"table1, figure2, …; {ALL}; or {PAGE}")
    length = parser.add_argument_group("how much")
    length.add_argument("--seeds", metavar="N", type=values.positive, help="runs per cell [default: the paper's]")
    how_long = length.add_mutually_exclusive_group()
    how_long.add_argument("--steps", metavar="N", type=values.positive, help="squeeze every run to N steps")
    how_long.add_argument("--quick", action="store_true", help="minutes: one seed, a few steps; shows that it works")
    length.add_argument(
        "--only",
        metavar="TEXT",
        action="append",
        default=[],
        help="cells whose row · column has TEXT ($: ends in it); may be repeated",
    )
    add_bf16(length)
    length.add_argument(
        "--finished", action="store_true", help="run nothing: take the runs that are finished or diverged"
    )
    length.add_argument(
        "--clock",
        action="store_true",
        help="run nothing: time a training step of each cell in turns with the dense network's, on one thread "
        "or --threads; best on a machine that does nothing else",
    )
    length.add_argument("--jobs", metavar="N", type=values.positive, default=1, help="runs at a time, as processes")
    places = parser.add_argument_group("where, and what is written")
    places.add_argument("--record", action="store_true", help="keep numbers and pictures in the repository")
    add_places(places)
    parser.set_defaults(execute=execute, parser=parser, stopped=GOES_ON)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur._base.errors import SecateurError
    from secateur.cli.runs import reproduced
    from secateur.lab.paper import folders, load, write_page

    try:
        if args.paper is None:
            reproduced.print_names(list(folders(Path.cwd())), as_json=args.json)
            return 0
        paper = load(args.paper, Path.cwd())
        wanted = _wanted(paper, args)
    except SecateurError as problem:
        raise UsageError(str(problem)) from None
    if args.artefact is None:
        reproduced.print_standing(paper, as_json=args.json)
        return 0
    if args.artefact == PAGE:
        reproduced.print_page(paper, write_page(paper, _docs(paper)), as_json=args.json)
        return 0
    if args.clock:
        args.stopped = "What was timed of earlier tables is kept where --record was given."
        _look_before_timing(paper, wanted, args)
        return _time(paper, wanted, args)
    _look_before(paper, wanted, args)
    found = []
    for artefact, cells in wanted:
        found.append(_reproduce(paper, artefact, cells, args))
        if not args.json:
            reproduced.print_outcome(found[-1])
    if args.json:
        console.emit(reproduced.to_json(paper, found))
    reproduced.print_failures(found)
    return 1 if any(outcome.failed for outcome in found) else 0


def _wanted(paper: Paper, args: argparse.Namespace) -> list[tuple[Artefact, list[Cell]]]:
    """Find the artefacts and cells that are asked for; with patterns, of all artefacts those that have such cells."""
    from secateur.lab.paper import only

    if args.artefact in (None, PAGE):
        return []
    if args.artefact != ALL:
        artefact = paper.find(args.artefact)
        return [(artefact, only(artefact.cells, args.only))]
    artefacts = paper.artefacts.values()
    chosen = {cell.name for cell in only([cell for artefact in artefacts for cell in artefact.cells], args.only)}
    found = [(artefact, [cell for cell in artefact.cells if cell.name in chosen]) for artefact in artefacts]
    return [(artefact, cells) for artefact, cells in found if cells or not args.only]


def _look_before(paper: Paper, wanted: list[tuple[Artefact, list[Cell]]], args: argparse.Namespace) -> None:
    """Refuse what would fail at the end of long runs: a cell that cannot be run, missing data, a damaged record."""
    from secateur.cli.runs import asked
    from secateur.lab.paper import (
        check_data,
        check_first,
        order,
        read_records,
    )

    here = args.on == "local" and not args.finished
    if here:
        asked.check_device(args.device)
    for artefact, cells in wanted:
        length = _length(artefact, args)
        check_first(cells, length)
        if here:
            check_data(order(cells, length), root=args.runs, data_dir=args.data_dir)
        if args.record:
            read_records(paper.expected(artefact))


def _look_before_timing(paper: Paper, wanted: list[tuple[Artefact, list[Cell]]], args: argparse.Namespace) -> None:
    """Refuse options that speak of runs, and what would fail after others were timed."""
    from secateur.cli.runs import asked
    from secateur.lab.paper import check_timed, read_costs

    of_runs = {
        "--seeds": args.seeds,
        "--steps": args.steps,
        "--quick": args.quick,
        "--finished": args.finished,
        "--jobs": args.jobs != 1,
        "--on ray": args.on == "ray",
        "--address": args.address,
    }
    given = [option for option, value in of_runs.items() if value]
    if given:
        raise UsageError(
            f"--clock times single steps here, one cell at a time, and runs nothing: leave out {', '.join(given)}."
        )
    asked.check_device(args.device)
    for artefact, cells in wanted:
        check_timed(_timed(artefact, cells, args), data_dir=args.data_dir)
        if args.record:
            read_costs(paper.costs(artefact))


def _length(artefact: Artefact, args: argparse.Namespace) -> Length:
    from secateur.lab.paper import Length

    return Length(args.seeds or (1 if args.quick else artefact.seeds), args.steps, args.quick, args.bf16)


def _reproduce(paper: Paper, artefact: Artefact, cells: list[Cell], args: argparse.Namespace) -> Outcome:
    """Run cells, record them where that is asked for, and draw."""
    from secateur.cli.runs.reproduced import Outcome
    from secateur.lab.paper import (
        Gathered,
        at_hand,
        illustrate,
        keep_records,
        outdone,
        read_records,
        run_cells,
    )

    length = _length(artefact, args)
    fresh = run_cells(cells, length, _command(args, artefact), lambda these: _run(these, args))
    if args.record:
        _say_what_stays(outdone(artefact, fresh, read_records(paper.expected(artefact))))
    records = keep_records(paper, artefact, fresh) if args.record else fresh
    folder = _docs(paper) / paper.name if args.record else args.runs / "pictures"
    results = at_hand(artefact.cells, length, args.runs)
    gathered = Gathered(artefact.cells, records, results, args.data_dir)
    return Outcome(artefact, tuple(cells), fresh, tuple(illustrate(artefact, gathered, folder)))


def _say_what_stays(kept: Mapping[str, Record]) -> None:
    for name, one in kept.items():
        seeds = len(one.seeds) + len(one.failures)
        console.complain(f"{name}: not recorded, for the record has {one.steps:,} steps and {seeds} seeds.")


def _time(paper: Paper, wanted: list[tuple[Artefact, list[Cell]]], args: argparse.Namespace) -> int:
    """Time a step of each cell; keep that where it is asked for."""
    from secateur.cli.runs import busy, reproduced
    from secateur.lab.paper import keep_costs, time_cells

    found = {}
    for artefact, cells in wanted:
        if not cells:
            continue
        timed = _timed(artefact, cells, args)
        with busy(f"timing {artefact.name}", quiet=args.quiet or args.json) as say:
            costs = time_cells(
                timed,
                data_dir=args.data_dir,
                device=args.device,
                threads=args.threads or 1,
                tell=lambda cell: say(f"timing {cell.name}"),
            )
        found[artefact.name] = costs
        if args.record:
            keep_costs(paper, artefact, costs)
        if not args.json:
            reproduced.print_costs(artefact, cells, costs)
    if args.json:
        console.emit(reproduced.costs_to_json(paper, found))
    return 0


def _timed(artefact: Artefact, cells: list[Cell], args: argparse.Namespace) -> list[Cell]:
    """Return the cells with the experiments that their runs would be."""
    return [replace(cell, experiment=_length(artefact, args).of(cell)[0]) for cell in cells]


def _run(experiments: Sequence[Experiment], args: argparse.Namespace) -> Comparison:
    from secateur.cli.runs import asked
    from secateur.lab.comparing import Comparison
    from secateur.lab.paper import (
        diverged,
        finished,
    )

    if not args.finished:
        return asked.run_all(experiments, args)
    done = finished(experiments, args.runs)
    rows = asked.run_all(done, args).rows if done else ()
    return Comparison(rows, diverged(experiments, args.runs))


def _command(args: argparse.Namespace, artefact: Artefact) -> str:
    """Say what re-derives the numbers; where runs are kept, and how many at once, changes none of them."""
    words = ["secateur", "paper", args.paper, artefact.name]
    for pattern in args.only:
        words += ["--only", pattern]
    given = {"--seeds": args.seeds, "--steps": args.steps, "--threads": args.threads}
    given["--device"] = None if args.device == "cpu" else args.device
    for option, value in given.items():
        words += [] if value is None else [option, str(value)]
    words += [option for option, given in {"--quick": args.quick, "--bf16": args.bf16}.items() if given]
    return shlex.join([*words, "--record"])


def _docs(paper: Paper) -> Path:
    """Return where the pages of papers are, in the repository that the paper's folder belongs to."""
    return paper.folder.parent.parent / "docs" / "papers"
