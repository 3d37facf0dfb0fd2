"""The file around the records: a safetensors file, read without believing what it says of itself."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.files import TYPE_NAMES, is_sealed, why_damaged
from secateur._base.text import shown
from secateur.archive._directory import ENTRY, once, unpack_directory
from secateur.archive._stored import Stored
from secateur.coding import Cursor

__all__ = ["CODED", "FORMAT", "VERSION", "Container", "damage_of", "is_archive", "opened"]

FORMAT = "secateur.archive"
VERSION = "2"
_FIRST = "1"  # whose directory is the header of the file itself: read, and not written any more
#: What stands behind the name of a tensor that is a record.
CODED = "#coded"
_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}
_LONGEST = 100_000_000  # bytes of a header, as safetensors has it
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, RuntimeError, IndexError)


@dataclass(frozen=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class Container:
    """An open archive: its texts, and its entries one at a time.

    Attributes:
        path: of the file.
        about: what it says of the model.
        size: of the file, in bytes.
        entries: name → place of each; the name of a record ends in `CODED`.
    """

    def __init__(self, path: Path, file: BinaryIO, about: dict[str, Any], entries: Mapping[str, _Entry]) -> None:
        self.path, self._file, self.about, self.entries = path, file, about, entries
        self.size = path.stat().st_size

    @property
    def header(self) -> int:
        """How many bytes lie before the data."""
        return self.size - max((entry.end for entry in self.entries.values()), default=0)

    def record(self, name: str) -> Stored:
        """An entry that is a record, where it lies."""
        entry = self.entries[name]
        return Stored(self._file, self.header + entry.begin, entry.end - entry.begin)

    def plain(self, name: str) -> Tensor:
        """An entry that is a tensor as it is.

        Raises:
            ValueError: its checksum is another.
        """
        entry = self.entries[name]
        content = bytearray(entry.end - entry.begin)
        self._file.seek(self.header + entry.begin)
        if self._file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise ValueError(f"{name!r} is cut off")
        if self.about["sums"].get(name) != f"{zlib.crc32(content):08x}":
            raise ValueError(f"{name!r} has another checksum")
        if not content:
            return torch.empty(entry.shape, dtype=entry.dtype)
        return torch.frombuffer(content, dtype=entry.dtype).reshape(entry.shape)


def is_archive(path: str | Path) -> bool:
    """Whether a file says that it is an archive, of whatever version; nothing else of it is looked at."""
    try:
        with open(path, "rb") as file:
            found = _metadata(_header(file, Path(path).stat().st_size)[0])
        return found.get("format") == FORMAT
    except (OSError, *_UNREADABLE):
        return False


@contextmanager
def opened(path: str | Path) -> Iterator[Container]:
    """Open an archive; its checksum is compared.

    Raises:
        FileNotFoundError: there is none.
        SecateurError: it is something else, damaged, or of a newer version; says which.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no archive at {shown(path)}")
    if not path.is_file():
        raise SecateurError(f"{shown(path)} is no file: expected one that secateur.compress wrote.")
    with open(path, "rb") as file:
        with damage_of(path):
            if (why := why_damaged(path)) is not None:
                raise ValueError(why)
            header, begin = _header(file, path.stat().st_size)
            version, size = _version(path, _metadata(header)), path.stat().st_size - begin
            if not is_sealed(path):
                raise ValueError("it has no checksum")
            about, tensors, size = _first(header, size) if version == _FIRST else _second(header, file, size)
            found = Container(path, file, about, _entries(tensors, size, about))
        yield found


@contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """Tell whatever fails in here as damage of the file."""
    try:
        yield
    except _UNREADABLE as problem:
        if isinstance(problem, SecateurError):
            raise
        text = str(problem) if str(problem) else type(problem).__name__
        raise SecateurError(
            f"{shown(path)} is damaged: {shown(text)}. Take another copy of it, or compress the model again."
        ) from None


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_LONGEST, size - 8):
        raise ValueError("it is no safetensors file: its header has no length")
    header = json.loads(file.read(length), object_pairs_hook=once)
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return header, 8 + length


def _metadata(header: Mapping[str, Any]) -> dict[str, Any]:
    found = header.get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def _version(path: Path, metadata: Mapping[str, Any]) -> str:
    if metadata.get("format") != FORMAT:
        raise SecateurError(f"{shown(path)} is a safetensors file, but not one that secateur.compress wrote.")
    version = metadata.get("version")
    if version not in (_FIRST, VERSION):
        raise SecateurError(
            f"{shown(path)} is an archive of version {shown(repr(version))}, and this Secateur reads versions "
            f"{_FIRST!r} and {VERSION!r}: update Secateur."
        )
    return str(version)


def _first(header: Mapping[str, Any], size: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What a file of version 1 says of its model, its tensors' places, and the size of their data."""
    about = _checked(json.loads(_metadata(header)["about"], object_pairs_hook=once))
    return about, {name: said for name, said in header.items() if name != "__metadata__"}, size


def _second(header: Mapping[str, Any], file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The same of version 2: its directory stands at the beginning of its one tensor."""
    whole = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    if header.keys() != {"__metadata__", ENTRY} or header[ENTRY] != whole:
        raise ValueError(f"it is more or less than its tensor {ENTRY!r}")
    begin = file.tell()
    cursor = Cursor(file.read(20))  # two numbers
    cursor.number(_LONGEST)
    length = cursor.number(size)
    head = min(20, size) - cursor.left
    file.seek(begin)
    cursor = Cursor(file.read(head + length))
    said = unpack_directory(cursor)
    about = _checked({"tied": {}, "manifest": None, "sums": {}} | said)
    tensors, at = {}, 0
    for name, *rest in about.pop("tensors"):
        dtype, shape, crc = rest if len(rest) == 3 else ("U8", rest, None)
        stored = name if len(rest) == 3 else name + CODED
        if stored in tensors or (crc is None) != (len(rest) == 1):
            raise ValueError(f"its directory has {name!r} twice, or no tensor of this name")
        if len(shape) > 64 or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
            raise ValueError(f"{name!r} has no shape")
        end = at + prod(shape) * _TYPES[dtype].itemsize
        tensors[stored] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        if crc is not None:
            about["sums"][name] = crc
        at = end
    return about, tensors, size - head - length


def _checked(about: Any) -> dict[str, Any]:
    texts = isinstance(about, dict) and all(isinstance(about.get(key), str) for key in ("kind", "model"))
    if not texts or not all(isinstance(about.get(key), dict) for key in ("tied", "sums")):
        raise ValueError("its header does not say what it holds")
    return about


def _entries(tensors: Mapping[str, Any], size: int, about: Mapping[str, Any]) -> dict[str, _Entry]:
    """The entries, which fill the data without a gap."""
    found: dict[str, _Entry] = {}
    for name, said in tensors.items():
        dtype, shape, (begin, end) = _TYPES[said["dtype"]], said["shape"], said["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, begin, end))
        if not whole or len(shape) > 64 or prod(max(n, 1) for n in shape) >= 1 << 62 or end > size:
            raise ValueError(f"{name!r} has no place in it")
        if prod(shape) * dtype.itemsize != end - begin or (name.endswith(CODED) and (dtype, len(shape)) != _RECORD):
            raise ValueError(f"{name!r} has not as many bytes as its shape says")
        found[name] = _Entry(dtype, tuple(shape), begin, end)
    at = 0
    for entry in sorted(found.values(), key=lambda each: (each.begin, each.end)):
        if entry.begin != at:
            raise ValueError("its data have a hole, or lie twice")
        at = entry.end
    if at != size:
        raise ValueError("its data end elsewhere than the file")
    names = {name.removesuffix(CODED) for name in found}
    if len(names) != len(found) or about["sums"].keys() != {name for name in found if not name.endswith(CODED)}:
        raise ValueError("it has a tensor twice, or one without a checksum")
    for name, first in about["tied"].items():
        if not isinstance(first, str) or first not in names or name in names:
            raise ValueError(f"{name!r} is tied to nothing that it holds")
    return found


_RECORD = (torch.uint8, 1)
