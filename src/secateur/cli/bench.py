"""`secateur bench`: how fast a network runs dense, masked and sparse."""

from __future__ import annotations

import argparse
from typing import Any

from secateur.cli.parser import Parser
from secateur.errors import SecateurError

ABOUT = """\
Times one network dense, masked and sparse, side by side on this machine."""


def add(commands: Any) -> None:
    """Declare the subcommand."""
    parser: Parser = commands.add_parser("bench", help="time a network dense and sparse", description=ABOUT)
    parser.add_argument("what", metavar="MODEL_OR_RUN", help="a model's name or a run's directory")
    parser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
    parser.set_defaults(execute=execute, parser=parser)


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand; return the exit status."""
    raise SecateurError("this version of Secateur has no sparse engine to measure yet.")
