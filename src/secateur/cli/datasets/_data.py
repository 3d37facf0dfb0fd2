"""`secateur data get NAME`: a published data set brought here; `secateur data` alone says where each is."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from secateur.cli.text import Parser, Table, UsageError, console

ABOUT = """\
`secateur data` says where each data set is. `secateur data get NAME` brings one here from where it is published,
checks its md5, and goes on where an earlier download broke off.

  secateur data get mnist
  secateur data get cifar10 --data-dir ~/data
  secateur data get mnist --from https://mirror.example/mnist/"""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("data", help="where data sets are, and bring one here", description=ABOUT)
    parser.add_argument("what", metavar="get", nargs="?", choices=("get",), help="bring a data set here")
    parser.add_argument("name", metavar="NAME", nargs="?", help="mnist, fashion-mnist or cifar10")
    parser.add_argument("--data-dir", metavar="DIR", help="where it goes [default: $SECATEUR_DATA, cache]")
    parser.add_argument("--from", metavar="URL", dest="address", help="a mirror, the folder in which the files lie")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.add_argument("--quiet", action="store_true", help="say nothing while files come")
    parser.set_defaults(
        execute=execute, parser=parser, stopped="What has come stays: the same command goes on behind it."
    )


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    from secateur.lab import data

    if args.what is None:
        places = data.whereabouts(args.data_dir)
        if args.json:
            console.emit({"format": "secateur.data/1", "places": places})
            return 0
        table = Table("", ("data set", "where"))
        for name, place in places.items():
            missing = f"not here: secateur data get {name}" if name in data.ADDRESSES else "not here"
            table.add(name, place if place is not None else missing)
        console.show(table)
        return 0
    if args.name is None:
        raise UsageError(f"the name of a data set is missing: {', '.join(data.ADDRESSES)}.")
    asked: str = args.name.lower()
    wanted = {"cifar10": "cifar-10", "fashionmnist": "fashion-mnist"}.get(asked, asked)
    told = None if args.quiet or args.json or not sys.stderr.isatty() else _tell
    files = data.get(wanted, args.data_dir, address=args.address, on_bytes=told)
    if args.json:
        console.emit({"format": "secateur.data/1", "name": wanted, "files": [str(file) for file in files]})
    else:
        console.say(f"{wanted} is here, its md5 as published:")
        for file in files:
            console.say(f"  {file}  ({console.size(file.stat().st_size)})")
    return 0


def _tell(name: str, done: int, whole: int | None) -> None:
    of = "" if whole is None else f" of {console.size(whole)}"
    sys.stderr.write(f"\r{name}: {console.size(done)}{of}   " + ("\n" if done == whole else ""))
