"""Files that are written whole or not at all, and that say when a bit of them has changed.

A checksum (CRC-32, which finds every single flipped bit and every burst of up to 32) lies in the file itself: first in
the header of a safetensors file, beside the other entries of a JSON object. Files without one, of earlier versions or
of other programs, are taken as they are.
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

#: What safetensors calls each type.
TYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}

#: Under which name a checksum stands in a file.
CHECKSUM = "secateur.crc32"

_BEGIN = f'{{"__metadata__":{{"{CHECKSUM}":"'.encode()  # of a header with a checksum, so that it is found unparsed
_NONE = b"0" * 8  # in its place while it is computed
_BLOCK = 1 << 20


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at any moment, power cuts included, the old or the whole new content is there.

    Raises:
        OSError: it could not be written; it names `path`, and nothing is left beside it.
    """
    write_parts(path, (content,))


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file as `write_whole` does, of parts that need not be in memory together."""
    with writing_whole(path) as file:
        for part in parts:
            file.write(part)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write piece by piece, that stands at `path` when all is there, as with `write_whole`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_directory(path.parent)
    except OSError as problem:
        if problem.errno is None:
            raise
        raise OSError(problem.errno, problem.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def sealed_tensors(content: bytes, about: Mapping[str, str]) -> bytes:
    """Put texts and a checksum into the header of a safetensors file that has none; equal ones give equal bytes.

    safetensors itself writes such texts in any order.
    """
    size = int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8 : 8 + size])
    head, data = _head(about, tensors), memoryview(content)[8 + size :]
    found = zlib.crc32(data, zlib.crc32(head))
    return b"".join((head.replace(_BEGIN + _NONE, _BEGIN + b"%08x" % found, 1), data))


def write_sealed(path: Path, about: Mapping[str, str], tensors: Mapping[str, Any], data: Iterable[Any]) -> None:
    """Write what `sealed_tensors` makes, whole or not at all, with the data piece by piece.

    Args:
        path: of the file.
        about: texts for the header.
        tensors: the header's entries: name → `dtype`, `shape` and `data_offsets`.
        data: pieces of memory, one after another as the offsets say.
    """
    with writing_whole(path) as file:
        head = _head(about, tensors)
        file.write(head)
        found = zlib.crc32(head)
        for piece in data:
            file.write(piece)
            found = zlib.crc32(piece, found)
        file.seek(8 + len(_BEGIN))
        file.write(b"%08x" % found)


def _head(about: Mapping[str, str], tensors: Mapping[str, Any]) -> bytes:
    """Length and header of a safetensors file, zeros in the checksum's place."""
    header = {"__metadata__": {CHECKSUM: _NONE.decode(), **about}, **tensors}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def is_sealed(path: Path) -> bool:
    """Whether a safetensors file begins with a checksum."""
    with open(path, "rb") as file:
        return file.read(8 + len(_BEGIN))[8:] == _BEGIN


def why_damaged(path: Path) -> str | None:
    """Say why the checksum of a safetensors file does not fit; None where it fits, or where there is none."""
    with open(path, "rb") as file:
        length, begin, said = file.read(8), file.read(len(_BEGIN)), file.read(len(_NONE))
        if begin != _BEGIN:
            return None
        found = zlib.crc32(length + begin + _NONE)
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return _compared(said.decode(errors="replace"), found)


def sealed_json(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object with a checksum of what it says; NaN and infinities are refused, since they are not JSON.

    Spaces, line ends and the order of its entries may change.
    """
    said = {name: value for name, value in content.items() if name != CHECKSUM}
    said = json.loads(json.dumps(said, allow_nan=False))  # as it is read back: names are strings, tuples lists
    said[CHECKSUM] = f"{_of_json(said):08x}"
    return (json.dumps(said, indent=1) + "\n").encode()


def opened_json(content: bytes) -> Any:
    """Read what `sealed_json` wrote, or other JSON; the checksum is compared and left out.

    Raises:
        ValueError: it is no JSON, holds a number that is not finite, is nested too deeply, or is not what was written.
    """
    try:
        found = json.loads(content, parse_float=_finite, parse_int=_whole, parse_constant=_finite)
        if not (isinstance(found, dict) and CHECKSUM in found):
            return found
        why = _compared(found.pop(CHECKSUM), _of_json(found))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if why is not None:
        raise ValueError(f"{why}; if it was changed on purpose, take out the entry {CHECKSUM!r}")
    return found


def _of_json(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def _compared(said: object, found: int) -> str | None:
    return None if said == f"{found:08x}" else f"its checksum is {said!r}, that of its content {f'{found:08x}'!r}"


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text} is not a finite number")
    return value


def _whole(text: str) -> int:
    _finite(text)  # what no float can hold is no number of ours, and would fail where one is needed
    return int(text)


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut: on POSIX the directory has to be flushed too."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
