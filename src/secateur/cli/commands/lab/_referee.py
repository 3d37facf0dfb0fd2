"""`secateur referee`: all methods on equal terms, and the page about it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.commands.lab._run import GOES_ON, add_places
from secateur.cli.text import Parser, Table, UsageError, console, values

if TYPE_CHECKING:
    from secateur.lab.referee import Line, Setting

ABOUT = """\
Runs every method on equal terms in a setting, with the controls that each has to beat, and records each
run. What is recorded is not run again: a sheet goes on where it was, and a new method adds its rows.

  secateur referee                                     the settings, and what is recorded of each
  secateur referee lenet-300-100-mnist --jobs 2        the whole sheet: all methods, densities, seeds
  secateur referee lenet-300-100-mnist --methods snip,rigl --densities 5%,2% --seeds 3
  secateur referee all --seeds 1                       one seed of everything
  secateur referee page                                the documentation's page from what is recorded"""

PAGE, ALL = "page", "all"
RECORDS, DOCS = Path("benchmarks/referee"), Path("docs/referee.md")


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("referee", help="all methods on equal terms", description=ABOUT)
    parser.add_argument("setting", metavar="SETTING", nargs="?", help=f"a setting's name, {ALL}, or {PAGE}")
    much = parser.add_argument_group("how much")
    much.add_argument("--methods", metavar="LIST", type=values.names, help="these alone, with magnitude and random")
    much.add_argument("--densities", metavar="LIST", type=values.names, help="as 10%%,2%% [default: the setting's]")
    much.add_argument("--seeds", metavar="N", type=values.positive, help="runs per cell [default: the setting's]")
    much.add_argument("--steps", metavar="N", type=values.positive, help="squeeze every run: to try, not to record")
    much.add_argument("--jobs", metavar="N", type=values.positive, default=1, help="runs at a time, as processes")
    places = parser.add_argument_group("where")
    places.add_argument("--records", metavar="DIR", type=Path, default=RECORDS, help="the sheets")
    places.add_argument("--page", metavar="FILE", type=Path, default=DOCS, help="what `referee page` writes")
    add_places(places)
    parser.set_defaults(execute=execute, parser=parser, stopped=GOES_ON)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur._base.errors import SecateurError
    from secateur.lab.referee import SETTINGS, setting, write_page

    try:
        if args.setting == PAGE:
            sheets = {one: _recorded(args, one) for one in SETTINGS}
            console.say(str(write_page(args.page, sheets)))
            return 0
        if args.setting is None:
            _print_standing(args)
            return 0
        wanted = list(SETTINGS) if args.setting == ALL else [setting(args.setting)]
        densities = [values.density(text) for text in args.densities or []]
        _refuse(args)
    except (SecateurError, argparse.ArgumentTypeError) as problem:
        raise UsageError(str(problem)) from None
    for one in wanted:
        _fill(args, one, densities)
    return 0


def _refuse(args: argparse.Namespace) -> None:
    """Refuse, before anything is run, what is no method, and short runs that would stand beside long ones."""
    from secateur._base.errors import SecateurError, nearest
    from secateur._catalogue import catalogue

    known = catalogue()
    for name in args.methods or []:
        if name not in known:
            hint = nearest(name, known)
            raise SecateurError(f"`--methods` must name methods of `secateur methods`, got {name!r}.{hint}")
    if args.steps and args.records == RECORDS:
        raise SecateurError("`--steps` makes runs that must not stand among the recorded ones: add --records DIR.")


def _fill(args: argparse.Namespace, one: Setting, densities: list[float]) -> None:
    from dataclasses import replace

    from secateur._catalogue import catalogue
    from secateur.cli.runs import asked
    from secateur.lab.experiment import shortened
    from secateur.lab.referee import fill

    sheet = replace(one, recipe=shortened(one.recipe, args.steps)) if args.steps else one
    lines = fill(
        sheet,
        args.records / f"{one.name}.jsonl",
        lambda these: asked.run_all(these, args),
        methods=args.methods or list(catalogue()),
        densities=densities or one.densities,
        seeds=args.seeds or one.seeds,
        root=args.runs,
    )
    done = sum(line.error is not None for line in lines)
    console.say(f"{one.name}: {done} runs recorded, {len(lines) - done} could not be run")


def _recorded(args: argparse.Namespace, one: Setting) -> list[Line]:
    from secateur.lab.referee import read_lines

    return list(read_lines(args.records / f"{one.name}.jsonl").values())


def _print_standing(args: argparse.Namespace) -> None:
    from secateur.lab.referee import SETTINGS

    found = [(one, _recorded(args, one)) for one in SETTINGS]
    if args.json:
        told = [{"setting": one.name, "title": one.title, "recorded": len(lines)} for one, lines in found]
        console.emit({"format": "secateur.referee/1", "settings": told})
        return
    table = Table("Settings of the referee", ("setting", "what", ">steps", ">recorded"))
    for one, lines in found:
        table.add(one.name, one.title, f"{one.recipe.steps:,}", len(lines))
    console.show(table)
