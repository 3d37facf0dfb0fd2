"""The commands, one file each: `add` declares its options, `execute` imports what it needs and runs it."""

from __future__ import annotations

from secateur.cli import datasets
from secateur.cli.commands import (
    _bench,
    _cost,
    _demo,
    _doctor,
    _explain,
    _methods,
    _paper,
    _prune,
    _report,
    _run,
    _show,
    _shrink,
)

#: In the order in which help lists them. A new command is one file and one name here.
COMMANDS = (_demo, _run, _paper, _prune, _methods, _show, _report, _shrink, _explain, _cost, datasets, _doctor, _bench)

__all__ = ["COMMANDS"]
