"""What makes a run repeatable: named random streams, files written whole or not at all, values named by content."""

from __future__ import annotations

from secateur.lab.repeat._plain import digest, plain, unplain
from secateur.lab.repeat._seeds import derive, generator, sent
from secateur.lab.repeat._store import (
    ArtefactError,
    BusyError,
    damaged,
    locked,
    read_json,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
)

__all__ = [
    "ArtefactError",
    "BusyError",
    "damaged",
    "derive",
    "digest",
    "generator",
    "locked",
    "plain",
    "read_json",
    "read_tensors",
    "sent",
    "unplain",
    "write_bytes",
    "write_json",
    "write_tensors",
]
