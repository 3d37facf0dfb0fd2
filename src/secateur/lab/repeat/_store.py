"""Files of a run: written whole or not at all, read with errors that name the file and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.files import opened_json, sealed_json, sealed_tensors, why_damaged, write_whole
from secateur._base.text import shown

_LARGEST_JSON = 1 << 26  # bytes; a result has some ten thousand


class ArtefactError(SecateurError):
    """A file of a run is damaged, or belongs to another run."""


class BusyError(SecateurError):
    """Another process is working on the same run."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that at any moment, power cuts included, the old or the whole new content is there.

    Raises:
        OSError: it could not be written; it names `path`, and nothing is left beside it.
    """
    write_whole(path, data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, with a checksum; NaN is refused, since it is not JSON."""
    write_bytes(path, sealed_json(content))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> None:
    """Write tensors atomically as safetensors, with a checksum and `about` as JSON in the file's header."""
    ready = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    header = {} if about is None else {"about": json.dumps(about, allow_nan=False)}
    write_bytes(path, sealed_tensors(tensors_to_bytes(ready), header))


def read_json(path: Path, *, kind: str | None = None) -> dict[str, Any]:
    """Read a JSON object without its checksum.

    Raises:
        ArtefactError: the file is damaged, or its `format` is not the `kind` asked for.
    """
    _require_file(path)
    if path.stat().st_size > _LARGEST_JSON:
        raise damaged(path, f"it has {path.stat().st_size:,} bytes, far more than Secateur writes")
    try:
        content = opened_json(path.read_bytes())
    except ValueError as problem:
        raise damaged(path, str(problem)) from None
    if not isinstance(content, dict):
        raise damaged(path, "not a JSON object")
    if kind is not None and content.get("format") != kind:
        raise damaged(path, f"its format is {content.get('format')!r}, not {kind!r}")
    return content


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a safetensors file and the `about` of its header (empty where there is none).

    Raises:
        ArtefactError: the file is damaged; its checksum is compared where it has one.
    """
    _require_file(path)
    why = why_damaged(path)
    if why is not None:
        raise damaged(path, why)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = opened_json(header.get("about", "{}").encode())
    except (
        SafetensorError,
        ValueError,
        TypeError,
        RuntimeError,
    ) as problem:  # the last two: what torch has no word for
        raise damaged(path, str(problem)) from None
    if not isinstance(about, dict):
        raise damaged(path, "what its header says about it is not a JSON object")
    return tensors, about


def _require_file(path: Path) -> None:
    """Refuse what would be waited for, or read without end: pipes, devices, folders."""
    if path.exists() and not path.is_file():
        raise damaged(path, "it is no file")


def damaged(path: Path, why: str) -> ArtefactError:
    """Return the error for a file that cannot be used."""
    return ArtefactError(
        f"{shown(path)} is damaged ({shown(why)}). Delete it and run again: only what it held is computed anew."
    )


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Own a run directory while the block runs; the lock goes with the process, however it dies.

    Args:
        directory: made where it is missing.
        wait: until another process that holds it lets it go.

    Raises:
        BusyError: when another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "a+") as file:
        _lock(file, directory, wait)
        for left_over in directory.glob(".*.tmp"):  # of a process that was killed while writing
            left_over.unlink(missing_ok=True)
        yield


def _lock(file: IO[str], directory: Path, wait: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks; two processes on one run would only repeat each other's work
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        raise BusyError(
            f"{directory} is being worked on by another process. Wait for it, or use another --runs directory."
        ) from None
