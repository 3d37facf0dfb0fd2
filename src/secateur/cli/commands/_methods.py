"""`secateur methods`: what there is, read from the code."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from secateur.cli.text import Parser, Table, UsageError, console

ABOUT = """\
Lists the pruning methods: when in a network's life they act (family), what they need (labels,
inputs, only the inputs' shapes, or nothing), what they cut, and the paper. With NAME, all about one of them."""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("methods", help="list the pruning methods", description=ABOUT)
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this method's page")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur._base.errors import nearest
    from secateur._catalogue import Entry, called, catalogue
    from secateur.lab.experiment import options_of

    known = catalogue()
    name = None if args.name is None else called(args.name)
    if name is not None and name not in known:
        raise UsageError(f"there is no method {name!r}.{nearest(name, known)}")
    entries = list(known.values()) if name is None else [known[name]]

    def options(entry: Entry) -> dict[str, list[str]]:
        return {name: [kind.__name__ for kind in kinds] for name, kinds in options_of(entry.factory).items()}

    if args.json:
        fields = [name for name in asdict(entries[0]) if name not in {"factory", "tags"}]
        content = [{name: getattr(entry, name) for name in fields} | {"tags": sorted(entry.tags)} for entry in entries]
        console.emit([one | {"options": options(entry)} for one, entry in zip(content, entries, strict=True)])
    elif args.name is None:
        _print_all(entries)
    else:
        _print_one(entries[0], options(entries[0]))
    return 0


def _print_all(entries: list[Any]) -> None:
    table = Table("", ("method", "alias", "family", "needs", "cuts", "paper", "in a line"))
    for entry in entries:
        paper = f"arXiv {entry.arxiv}" if entry.arxiv else None
        table.add(
            entry.name, ", ".join(entry.aliases) or None, entry.family, entry.needs, entry.cuts, paper, entry.summary
        )
    console.show(table)


def _print_one(entry: Any, options: dict[str, list[str]]) -> None:
    import inspect

    signature = str(inspect.signature(entry.factory)).replace("'", "")  # annotations are kept as text
    console.say(f"{entry.call}{signature}")
    console.say()
    console.say(inspect.getdoc(entry.factory) or "")
    if options:
        words = ", ".join(f"{name}={'|'.join(kinds)}" for name, kinds in options.items())
        console.say(f"\nOn the command line: --option {words}")
