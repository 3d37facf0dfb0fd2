"""The command line. Each subcommand imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from secateur._base.errors import CheckpointWarning, MeasurementsWarning, SecateurError, told
from secateur.cli.commands import COMMANDS
from secateur.cli.text import Parser, UsageError, console

__all__ = ["main"]

PAGE = """\
Secateur prunes PyTorch networks before, during or after training, and proves what it did.

  secateur demo                                    see the main job, in under a minute
  secateur run --data mnist --density 0.05         prune at initialisation by SNIP, then train
  secateur run --compare snip,random,dense --seeds 5
                                                   several methods on equal terms, mean ± std
  secateur paper snip_2019                         the SNIP paper's tables and figures over again
  secateur show runs/NAME                          what a run, a mask or a checkpoint holds
  secateur shrink runs/NAME --keep 50% --of macs   whole units out, with a proof, into a file"""

END = """\
Runs are kept in ./runs, one directory each, named by what was asked for. A run that was interrupted
goes on when the same command is given again, and ends in the same bits; a finished run is not repeated.

`density` is the fraction of weights kept: --density 0.05, --density 5% and --sparsity 95% are the same.

Exit status: 0 done, 1 a run failed, 2 the command line asks for something that does not exist, 130
stopped by Ctrl-C."""

# What belongs to the lab extra, by import name.
_LAB = {"rich", "matplotlib", "PIL"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit status."""
    parser = build_parser()
    try:
        args = parser.parse(argv)
    except SystemExit as done:  # --help, --version, or a refused command line
        return done.code if isinstance(done.code, int) else 0
    if not hasattr(args, "execute"):
        parser.print_help()
        return 0
    try:
        with _sentences():
            status = args.execute(args)
            sys.stdout.flush()  # here, where a full disk is still an error that can be told
            return status
    except UsageError as problem:
        args.parser.complain(str(problem))
        return 2
    except SecateurError as problem:
        console.complain(str(problem))
    except ModuleNotFoundError as problem:
        if problem.name is None or problem.name.partition(".")[0] not in _LAB:
            raise
        console.complain(
            f"{args.parser.prog} needs the package {problem.name}, which comes with the lab extra: "
            "pip install '.[lab]' in a clone of Secateur"
        )
    except KeyboardInterrupt:
        console.complain(f"stopped. {getattr(args, 'stopped', 'Nothing was left half done.')}")
        return 130
    except BrokenPipeError:  # the reader of our output has left: `secateur methods | head`
        sys.stderr.close()
        return 0
    except OSError as problem:
        console.complain(told(problem))
        _give_up_output()
    except MemoryError as problem:
        console.complain(f"there is not enough memory for this{f' ({problem})' if str(problem) else ''}.")
    return 1


@contextmanager
def _sentences() -> Iterator[None]:
    """Tell of what could not be written or read in a sentence, not with the line of code that warned."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, CheckpointWarning | MeasurementsWarning):
            console.remark(str(message))
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def _give_up_output() -> None:
    """Send what stdout will not take to nowhere, where Python would complain of it once more as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser("secateur", description=PAGE, epilog=END)
    parser.add_argument("--version", action=_Version, nargs=0, help="write the version and leave")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for module in COMMANDS:
        module.add(commands)
    return parser


class _Version(argparse.Action):
    """Write the version; looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *ignored: Any) -> None:
        from secateur import __version__

        console.say(f"secateur {__version__}")
        parser.exit(0)
