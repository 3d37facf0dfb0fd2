"""Weights in safetensors files: read one tensor at a time out of mapped memory, and written without a second copy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.files import TYPE_NAMES, write_parts
from secateur._base.text import shown

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Kind(NamedTuple):
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What it takes."""
        return prod(self.shape) * self.dtype.itemsize


class Source:
    """The weights in a folder of Hugging Face: of one file, or of the shards that an index names.

    Raises:
        SecateurError: there are none, or what is there is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._place = _places(folder)
        self._files = {file: folder / file for file in sorted(set(self._place.values()))}
        held: set[tuple[str, str]] = set()
        for file, path in self._files.items():
            with _opened(path) as handle:
                held |= {(name, file) for name in handle.keys()}  # noqa: SIM118 - a handle is no mapping
        lost = next((name for name, file in self._place.items() if (name, file) not in held), None)
        if lost is not None:
            raise SecateurError(
                f"{shown(folder / INDEX)} says that {shown(lost)!r} is in {shown(self._place[lost])}, and it is not."
            )

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def tensor(self, name: str) -> Tensor:
        """A copy of one tensor; the file is mapped for as long as copying takes, so that no page of it stays."""
        path = self._files[self._place[name]]
        with _opened(path) as file:
            try:
                return file.get_tensor(name).clone()
            except (SafetensorError, RuntimeError) as problem:
                raise SecateurError(f"{shown(name)!r} cannot be read from {shown(path)}: {shown(problem)}") from problem

    @property
    def stamp(self) -> list[list[Any]]:
        """What tells these files from others: their names, sizes and times."""
        found = [(file, path.stat()) for file, path in self._files.items()]
        return [[file, stat.st_size, stat.st_mtime_ns] for file, stat in found]


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as problem:
        raise SecateurError(f"{shown(path)} is no safetensors file, or it is damaged: {shown(problem)}") from problem


def _places(folder: Path) -> dict[str, str]:
    """In which file each tensor is."""
    if (folder / INDEX).is_file():
        try:
            found = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            places = {str(name): str(file) for name, file in found.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            raise SecateurError(f"{shown(folder / INDEX)} is damaged: it holds no `weight_map`.") from problem
        for file in set(places.values()):
            if Path(file).name != file or not (folder / file).is_file():
                raise SecateurError(
                    f"{shown(folder / INDEX)} names the file {shown(file)!r}, which is not in the folder."
                )
        return places
    if (folder / _SINGLE).is_file():
        with _opened(folder / _SINGLE) as file:
            return dict.fromkeys(file.keys(), _SINGLE)
    raise SecateurError(
        f"{shown(folder)} has no weights in safetensors files ({_SINGLE}, or {INDEX} and what it names): other formats "
        "are read in memory (`secateur prune --in-memory`)."
    )


def write(path: Path, kinds: Mapping[str, Kind], value: Callable[[str], Tensor]) -> None:
    """Write a safetensors file in one step, one tensor in memory after the other.

    Args:
        path: the file.
        kinds: shape and type of each tensor, in the order in which they lie in the file.
        value: name → the tensor.

    Raises:
        SecateurError: a type that safetensors does not have, or a tensor that is not of its kind.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, kind in sorted(kinds.items(), key=lambda each: -each[1].dtype.itemsize):  # so that all are aligned
        if kind.dtype not in TYPE_NAMES:
            raise SecateurError(f"{shown(name)!r} is of {kind.dtype}, which is not written here.")
        begin, end = end, end + kind.bytes
        header[name] = {"dtype": TYPE_NAMES[kind.dtype], "shape": list(kind.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little")
        yield text
        for name in list(header)[1:]:
            tensor = value(name)
            if kind_of(tensor) != kinds[name]:
                raise SecateurError(f"{shown(name)!r} must be {kinds[name]}, got {kind_of(tensor)}.")
            whole: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            yield memoryview(whole)

    write_parts(path, parts())


def kind_of(tensor: Tensor) -> Kind:
    """Shape and type of a tensor."""
    return Kind(tuple(tensor.shape), tensor.dtype)


def read_one(path: Path, name: str) -> Tensor:
    """A copy of one tensor of a file that `write` made.

    Raises:
        SecateurError: there is no such file, or it is damaged.
    """
    with _opened(path) as file:
        try:
            return file.get_tensor(name).clone()
        except (SafetensorError, RuntimeError) as problem:
            raise SecateurError(f"{shown(path)} is damaged: {shown(problem)}") from problem
