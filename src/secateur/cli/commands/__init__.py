"""The commands, one file each: `add` declares its options, `execute` imports what it needs and runs it."""

from __future__ import annotations

from secateur.cli import archives, datasets
from secateur.cli.commands import _bench, _doctor, _methods
from secateur.cli.commands.lab import LAB
from secateur.cli.commands.models import MODELS

#: In the order in which help lists them. A new command is one file and one name in its room.
COMMANDS = (*LAB, *MODELS, archives, _methods, datasets, _doctor, _bench)

__all__ = ["COMMANDS"]
