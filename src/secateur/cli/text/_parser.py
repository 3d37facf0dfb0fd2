"""argparse, made kinder: help that reads like a page, and errors that suggest the nearest word."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from secateur._base.errors import SecateurError, nearest
from secateur._base.text import shown


class UsageError(SecateurError):
    """The command line asks for something that does not exist; exit status 2."""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Raw paragraphs, and the defaults behind the options' help."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.default not in (None, argparse.SUPPRESS, False, [], "")
        return f"{text} [default: %(default)s]" if shown and action.option_strings else text


class Parser(argparse.ArgumentParser):
    """A parser that says the nearest word it knows when it is given one it does not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print the error and where help is, not the whole usage; exit with 2."""
        self.complain(message)
        self.exit(2)

    def complain(self, message: str) -> None:
        """Print an error and where help is."""
        self._print_message(f"{self.prog}: {shown(message, lines=True)}\nSee `{self.prog} --help`.\n", sys.stderr)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            what = action.option_strings[0] if action.option_strings else (action.metavar or action.dest)
            raise argparse.ArgumentError(
                None, f"{what} must be one of {', '.join(known)}, got {value!r}.{nearest(str(value), known)}"
            )

    def parse(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse, and for an unknown option name the nearest one of the subcommand it was given to."""
        found, unknown = self.parse_known_args(args)
        if unknown:
            parser = getattr(found, "parser", self)
            word = unknown[0].partition("=")[0]
            options = [option for action in parser._actions for option in action.option_strings]
            hint = nearest(word, options) if re.match("-", word) else ""
            kind = "option" if word.startswith("-") else "argument"
            parser.error(f"unknown {kind} {word!r}.{hint}")
        return found
