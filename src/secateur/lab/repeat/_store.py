"""Files of a run: written whole or not at all, read with errors that name the file and the way out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from secateur._base.errors import SecateurError


class ArtefactError(SecateurError):
    """A file of a run is damaged, or belongs to another run."""


class BusyError(SecateurError):
    """Another process is working on the same run."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that at any moment, power cuts included, the old or the whole new content is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_directory(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN is refused, since it is not JSON."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> None:
    """Write tensors atomically as safetensors, with `about` as JSON in the file's header."""
    ready = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    header = None if about is None else {"about": json.dumps(about, allow_nan=False)}
    write_bytes(path, tensors_to_bytes(ready, metadata=header))


def read_json(path: Path, *, kind: str | None = None) -> dict[str, Any]:
    """Read a JSON object; a damaged file, or one whose `format` is not the `kind` asked for, is an `ArtefactError`."""
    try:
        content = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise damaged(path, str(problem)) from None
    if not isinstance(content, dict):
        raise damaged(path, "not a JSON object")
    if kind is not None and content.get("format") != kind:
        raise damaged(path, f"its format is {content.get('format')!r}, not {kind!r}")
    return content


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a safetensors file and the `about` of its header (empty where there is none)."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = json.loads(header.get("about", "{}"))
    except (SafetensorError, json.JSONDecodeError) as problem:
        raise damaged(path, str(problem)) from None
    return tensors, about


def damaged(path: Path, why: str) -> ArtefactError:
    """Return the error for a file that cannot be used."""
    return ArtefactError(f"{path} is damaged ({why}). Delete it and run again: only what it held is computed anew.")


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


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut: on POSIX the directory has to be flushed too."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
