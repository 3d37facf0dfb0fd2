"""How far a sweep over a model on disk has come, so that it can go on there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from secateur._base.errors import SecateurError
from secateur._base.files import opened_json, sealed_json, write_whole
from secateur._base.text import shown
from secateur.axes import Method
from secateur.measures import Batch

FILE = "sweep.json"
_FORMAT = "secateur.sweep/1"

#: What must be the same for a sweep to go on, and how it is called.
_SAME = {
    "method": "the method",
    "source": "the model's files",
    "calibration": "the calibration data or their batches",
    "blocks": "the model's blocks",
}


@dataclass(frozen=True)
class Journal:
    """What is swept, and how far.

    Attributes:
        method: which method, with its options.
        source: what tells the model's files from others.
        calibration: a digest of the batches.
        blocks: names.
        done: how many blocks are pruned and written; -1 before the first block's inputs are.
        kept: of each of them how many weights stay.
        prunable: of each of them how many there are.
    """

    method: str
    source: list[list[Any]]
    calibration: str
    blocks: list[str]
    done: int = -1
    kept: tuple[int, ...] = ()
    prunable: tuple[int, ...] = ()

    def after(self, kept: int, prunable: int) -> Journal:
        """The same with one block more."""
        return replace(self, done=self.done + 1, kept=(*self.kept, kept), prunable=(*self.prunable, prunable))

    def ready(self) -> Journal:
        """The same with the first block's inputs there."""
        return replace(self, done=0)

    def write(self, folder: Path) -> None:
        """Write it into the folder of a sweep."""
        write_whole(folder / FILE, sealed_json({"format": _FORMAT, **asdict(self)}))


def begun(method: Method, source: list[list[Any]], batches: Sequence[Batch], blocks: Sequence[str]) -> Journal:
    """The journal of a sweep that has done nothing yet."""
    return Journal(_said(method), source, _digest(batches), list(blocks))


def resumed(folder: Path, fresh: Journal) -> Journal:
    """The journal in a folder, if it is of the same sweep as the fresh one; the fresh one where nothing is done yet.

    Raises:
        SecateurError: it is of another sweep, or damaged; or the folder is none of ours.
    """
    path = folder / FILE
    way_out = f"Delete {shown(folder)} to begin anew, or write to another folder."
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(each.name != ".lock" for each in folder.iterdir())):
            raise SecateurError(f"{shown(folder)} is in the way, and holds no sweep. {way_out}")
        return fresh
    try:
        said: dict[str, Any] = dict(opened_json(path.read_bytes()))
        if said.pop("format") != _FORMAT:
            raise ValueError("it is of another version")
        counts: dict[str, Any] = {name: tuple(said[name]) for name in ("kept", "prunable")}
        journal = Journal(**(said | counts))
        if type(journal.done) is not int or len(journal.kept) != max(0, journal.done):
            raise ValueError(f"it says {journal.done} blocks and counts {len(journal.kept)}")
    except (ValueError, KeyError, TypeError) as problem:
        raise SecateurError(f"{shown(path)} is damaged: {shown(problem)}. {way_out}") from problem
    for name, what in _SAME.items():
        if getattr(journal, name) != getattr(fresh, name):
            if journal.done <= 0:
                return fresh
            raise SecateurError(
                f"{shown(folder)} holds a sweep that was interrupted, and {what} were others: "
                f"{shown(getattr(journal, name))}, now {shown(getattr(fresh, name))}. {way_out}"
            )
    return journal


def _said(method: Method) -> str:
    """A method with its options, in the same words in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(method))


def _digest(batches: Sequence[Batch]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for batch in batches:
        items = batch.items() if isinstance(batch, Mapping) else enumerate([batch])
        for name, value in items:
            data = value.detach().cpu().contiguous() if isinstance(value, torch.Tensor) else value
            found.update(repr((name, getattr(data, "shape", None), getattr(data, "dtype", None))).encode())
            flat = data.reshape(-1).view(torch.uint8).numpy().tobytes() if isinstance(data, torch.Tensor) else b""
            found.update(flat or repr(data).encode())
    return found.hexdigest()
