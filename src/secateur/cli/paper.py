"""`secateur paper`: a published table or figure over again, by one command."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli import console, values
from secateur.cli.console import Table
from secateur.cli.parser import Parser, UsageError
from secateur.cli.run import add_places

if TYPE_CHECKING:
    from secateur.lab.compare import Comparison
    from secateur.lab.paper import Artefact, Cell, Paper, Record

ABOUT = """\
Runs the experiments behind a published table or figure and puts the numbers beside the paper's. Without
an artefact: lists what there is and what is recorded. Runs are kept and go on after an interruption, so
the same command with more seeds adds only those.

  secateur paper snip_2019                              what can be reproduced, and how it stands
  secateur paper snip_2019 table1 --quick               a few steps each: does everything run?
  secateur paper snip_2019 table1 --jobs 2              the paper's full length, two runs at a time
  secateur paper snip_2019 figure1 --only lenet-300 --seeds 20 --record
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
        "--only", metavar="TEXT", action="append", default=[], help="cells whose row · column has TEXT; may be repeated"
    )
    length.add_argument("--finished", action="store_true", help="run nothing: take the runs that are finished")
    length.add_argument("--jobs", metavar="N", type=values.positive, default=1, help="runs at a time, as processes")
    places = parser.add_argument_group("where, and what is written")
    places.add_argument("--record", action="store_true", help="keep numbers and pictures in the repository")
    add_places(places)
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.errors import SecateurError
    from secateur.lab.paper import folders, load

    if args.paper is None:
        for name in folders(Path.cwd()):
            console.say(name)
        return 0
    try:
        paper = load(args.paper, Path.cwd())
        wanted = _wanted(paper, args)
    except SecateurError as problem:
        raise UsageError(str(problem)) from None
    if args.artefact == PAGE:
        return _page(paper)
    if args.artefact is None:
        _list(paper)
        return 0
    return max(_reproduce(paper, artefact, cells, args) for artefact, cells in wanted)


def _wanted(paper: Paper, args: argparse.Namespace) -> list[tuple[Artefact, list[Cell]]]:
    """Find the artefacts and cells that are asked for, before anything is run."""
    from secateur.lab.paper import only

    if args.artefact in (None, PAGE):
        return []
    chosen = list(paper.artefacts.values()) if args.artefact == ALL else [paper.find(args.artefact)]
    return [(artefact, only(artefact.cells, args.only)) for artefact in chosen]


def _reproduce(paper: Paper, artefact: Artefact, cells: list[Cell], args: argparse.Namespace) -> int:
    from secateur.lab.paper import Gathered, Length, work

    length = Length(args.seeds or (1 if args.quick else artefact.seeds), args.steps, args.quick)
    fresh, results = work.measure(cells, length, _command(args, artefact), lambda these: _run(these, args))
    records = work.keep(paper, artefact, fresh) if args.record else dict(fresh)
    folder = _docs(paper) / paper.name if args.record else args.runs / "pictures"
    gathered = Gathered(artefact.cells, records, results, args.data_dir)
    pictures = work.illustrate(artefact, gathered, folder)
    if args.json:
        console.emit(_as_json(artefact, cells, fresh, pictures))
    else:
        _show(artefact, cells, fresh)
        for picture in pictures:
            console.say(f"picture: {picture}")
    return 1 if any(record.failures for record in fresh.values()) else 0


def _run(experiments: list[Any], args: argparse.Namespace) -> Comparison:
    from secateur.cli import asked
    from secateur.lab.compare import Comparison
    from secateur.lab.paper import work
    from secateur.lab.stages import check

    for experiment in experiments:
        check(experiment)
    chosen = work.finished(experiments, args.runs) if args.finished else experiments
    return asked.run_all(chosen, args) if chosen else Comparison((), {})


def _command(args: argparse.Namespace, artefact: Artefact) -> str:
    """Say what re-derives the numbers; where runs are kept, and how many at once, changes none of them."""
    words = ["secateur", "paper", args.paper, artefact.name]
    for pattern in args.only:
        words += ["--only", pattern]
    for option, value in (("--seeds", args.seeds), ("--steps", args.steps), ("--device", args.device)):
        if value is not None and value != "cpu":
            words += [option, str(value)]
    words += ["--quick"] if args.quick else []
    return shlex.join([*words, "--record"])


def _show(artefact: Artefact, cells: list[Cell], records: dict[str, Record]) -> None:
    from secateur.lab.paper import verdict
    from secateur.lab.paper.layout import number, speed_up, spread

    columns = ("", "", ">paper", ">ours", ">best", ">seeds", ">steps", ">training", ">dense/it", "verdict")
    table = Table(artefact.title, columns)
    for cell in cells:
        record = records.get(cell.name)
        if record is None:
            table.add(cell.row, cell.column, number(cell.paper), *(None,) * 6, "not measured")
            continue
        gain = speed_up(cell, artefact.cells, records)
        table.add(
            cell.row,
            cell.column,
            number(cell.paper),
            spread(record),
            number(record.best_mean),
            len(record.seeds),
            f"{record.steps:,}",
            console.duration(record.training),
            None if gain is None else f"{gain:.1f}×",
            str(verdict(cell, record)).strip("*"),
        )
    if cells:
        console.show(table)
    for name, record in records.items():
        for failure in record.failures:
            console.complain(f"{name}: {failure}")


def _as_json(artefact: Artefact, cells: list[Cell], records: dict[str, Record], pictures: list[Path]) -> Any:
    from dataclasses import asdict

    from secateur.lab.paper import verdict

    found = [
        {"cell": cell.name, "paper": cell.paper, "verdict": str(verdict(cell, records.get(cell.name))).strip("*")}
        | ({"ours": asdict(records[cell.name])} if cell.name in records else {})
        for cell in cells
    ]
    return {"artefact": artefact.name, "cells": found, "pictures": [str(picture) for picture in pictures]}


def _list(paper: Paper) -> None:
    from secateur.lab.paper import record

    table = Table(paper.title, ("artefact", "what", ">cells", ">recorded", ">seeds"))
    for artefact in paper.artefacts.values():
        recorded = record.read(paper.expected(artefact))
        table.add(artefact.name, artefact.title, len(artefact.cells), len(recorded), artefact.seeds)
    console.show(table)


def _page(paper: Paper) -> int:
    from secateur.lab.paper import page

    console.say(str(page.write(paper, _docs(paper))))
    return 0


def _docs(paper: Paper) -> Path:
    """Return where the pages of papers are, in the repository that the paper's folder belongs to."""
    return paper.folder.parent.parent / "docs" / "papers"
