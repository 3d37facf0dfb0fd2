"""The mask file: a safetensors file with one row of packed bits per parameter and its shape in the header.

safetensors, because a mask from a stranger must be safe to open; packed bits, because one bit per weight is
all there is to know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from secateur._base.errors import MaskError
from secateur._base.files import sealed_tensors, why_damaged, write_sealed, write_whole
from secateur._base.text import shown

_FORMAT = "secateur.masks"
_VERSION = "1"
_DIMENSIONS = 64  # that a tensor may have
_KINDS = {"U8": "uint8"}


def pack(mask: Tensor) -> np.ndarray:
    """Pack a boolean tensor into bytes, first entry in the highest bit, the last byte filled with zeros."""
    return np.packbits(mask.cpu().reshape(-1).numpy())


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write boolean tensors to `path` in one step: a reader sees the old file or the new one, never half.

    The same tensors in the same order are the same bytes.
    """
    rows = {name: pack(mask) for name, mask in tensors.items()}
    about = _about({name: list(mask.shape) for name, mask in tensors.items()})
    write_whole(path, sealed_tensors(save(rows), about))


def read(path: Path) -> dict[str, Tensor]:
    """Read the boolean tensors of a mask file, in the order they were written.

    Raises:
        FileNotFoundError: there is no such file.
        MaskError: the file is no mask file, is damaged, or was written by a newer Secateur.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no mask file at {shown(path)}")
    if not path.is_file():
        raise MaskError(f"{shown(path)} is not a mask file: it is no file at all")
    why = why_damaged(path)
    if why is not None:
        raise MaskError(f"{shown(path)} is damaged: {why}. Take another copy of it, or prune again")
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = _shapes(path, file.metadata() or {})
            odd = sorted(set(file.keys()) ^ shapes.keys())
            if odd:
                raise MaskError(f"{shown(path)} is damaged: {odd[0]!r} is missing from its header or from its data")
            return {name: _unpack(path, name, file, shape) for name, shape in shapes.items()}
    except SafetensorError as error:
        raise MaskError(f"{shown(path)} is not a mask file, or it is damaged: {shown(error)}") from error


def _shapes(path: Path, header: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    if header.get("format") != _FORMAT:
        raise MaskError(f"{shown(path)} is a safetensors file but not a mask file; `Masks.save(path)` writes one")
    if header.get("version") != _VERSION or header.get("bits") != "big":
        raise MaskError(
            f"{shown(path)} is a mask file of version {header.get('version')!r}, and this Secateur reads version "
            f"{_VERSION!r}; update Secateur"
        )
    try:
        found = json.loads(header["shapes"])
        shapes = {name: tuple(shape) for name, shape in found.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MaskError(f"{shown(path)} is damaged: its header holds no table of shapes") from error
    for name, shape in shapes.items():
        if not _is_shape(shape):
            said = str(shape) if len(shape) <= _DIMENSIONS else f"of {len(shape)} dimensions"
            raise MaskError(f"{shown(path)} is damaged: {name!r} has the shape {said}")
    return shapes


def _is_shape(shape: tuple[Any, ...]) -> bool:
    """Whether torch can make a tensor of this shape: it counts in 64 bits, an empty tensor's other sizes too."""
    if len(shape) > _DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        return False
    return prod(max(size, 1) for size in shape) < 1 << 63


def _unpack(path: Path, name: str, file: Any, shape: tuple[int, ...]) -> Tensor:
    total, stored = prod(shape), file.get_slice(name)
    kind, size = _KINDS.get(stored.get_dtype(), stored.get_dtype()), tuple(stored.get_shape())
    if kind != "uint8" or size != ((total + 7) // 8,):  # looked at before anything is read
        raise MaskError(
            f"{shown(path)} is damaged: {name!r} of shape {shape} needs {(total + 7) // 8} bytes, "
            f"got {kind} of shape {size}"
        )
    bits = np.unpackbits(file.get_tensor(name))
    if bits[total:].any():
        raise MaskError(f"{shown(path)} is damaged: {name!r} has bits set behind its last weight")
    return torch.from_numpy(bits[:total].view(np.bool_).copy()).reshape(shape)


def join(parts: Sequence[Path], path: Path) -> None:
    """Write the masks of several files into one, row by row: the same bytes as `write` of all of them together.

    Raises:
        MaskError: as `read`; or a tensor that two of the files have.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    place: dict[str, Path] = {}
    for part in parts:
        for name, mask in read(part).items():  # looked at whole, one file at a time
            if name in place:
                raise MaskError(f"{shown(name)!r} is in two of the files to join: {shown(place[name])}, {shown(part)}")
            shapes[name], place[name] = tuple(mask.shape), part
    rows: dict[str, Any] = {}
    end = 0
    for name in sorted(place):
        begin, end = end, end + (prod(shapes[name]) + 7) // 8
        rows[name] = {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
    about = _about({name: list(shape) for name, shape in shapes.items()})
    write_sealed(path, about, rows, (_row(place[name], name) for name in rows))


def _row(part: Path, name: str) -> bytes:
    with safe_open(str(part), framework="numpy") as file:
        return file.get_tensor(name).tobytes()


def _about(shapes: Mapping[str, list[int]]) -> dict[str, str]:
    return {"format": _FORMAT, "version": _VERSION, "bits": "big", "shapes": json.dumps(shapes)}
