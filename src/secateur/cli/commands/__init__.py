"""The commands, one file each: `add` declares its options, `execute` imports what it needs and runs it."""

from __future__ import annotations

from secateur.cli import archives
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
COMMANDS = (_demo, _run, _paper, _prune, _methods, _show, _report, _shrink, archives, _explain, _cost, _doctor, _bench)

__all__ = ["COMMANDS"]
