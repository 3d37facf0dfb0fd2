"""Verdicts about layers, remembered on this machine: `verdicts.json` beside the other measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from secateur._base import door
from secateur.sparse.timing._processor import processor
from secateur.sparse.timing._store import cache_file, entries, remembered, replace_entries
from secateur.turns import Verdict

_FILE = "verdicts.json"
_VERSION = 2  # of the measurement and of the kernels' speed; another one measures anew


def remembered_verdict(kind: str, measure: Callable[[], tuple[Verdict, str]]) -> tuple[Verdict, str]:
    """Return the verdict on a layer of this kind at this number of threads, measuring it if need be.

    Args:
        kind: the layer, its density, its input and its mode, in words.
        measure: finds the verdict, and the name of the best dense way. One that is not certain is not kept.
    """
    key = f"{_here()} · {kind}"

    def write(found: tuple[Verdict, str]) -> object:
        return found[0].as_json() | {"dense": found[1]} if found[0].certain else None

    def read(entry: Any) -> tuple[Verdict, str]:
        fields = dict(entry)
        return Verdict.of_json({name: value for name, value in fields.items() if name != "dense"}), str(fields["dense"])

    return remembered(cache_file(_FILE), key, measure, write=write, read=read)


def verdicts_here() -> dict[str, Verdict]:
    """Return what is remembered of this machine at this number of threads, by kind of layer."""
    start = f"{_here()} · "
    found = {}
    for key, entry in entries(cache_file(_FILE)).items():
        if key.startswith(start) and isinstance(entry, dict):
            try:
                fields = {name: value for name, value in entry.items() if name != "dense"}
                found[key.removeprefix(start)] = Verdict.of_json(fields)
            except (KeyError, TypeError, ValueError):
                continue
    return found


def forget() -> int:
    """Forget what is remembered of this machine at this number of threads; return how many verdicts that were."""
    known = entries(cache_file(_FILE))
    start = f"{_here()} · "
    kept = {key: entry for key, entry in known.items() if not key.startswith(start)}
    if len(kept) < len(known):
        replace_entries(cache_file(_FILE), kept)
    return len(known) - len(kept)


def _here() -> str:
    return f"{processor()} · torch {torch.__version__} · {torch.get_num_threads()} threads · {door.isa()} · v{_VERSION}"
