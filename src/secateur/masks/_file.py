"""The mask file: a safetensors file with one row of packed bits per parameter and its shape in the header.

safetensors, because a mask from a stranger must be safe to open; packed bits, because one bit per weight is
all there is to know.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from secateur._base.errors import MaskError

_FORMAT = "secateur.masks"
_VERSION = "1"


def pack(mask: Tensor) -> np.ndarray:
    """Pack a boolean tensor into bytes, first entry in the highest bit, the last byte filled with zeros."""
    return np.packbits(mask.cpu().reshape(-1).numpy())


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write boolean tensors to `path` in one step: a reader sees the old file or the new one, never half."""
    rows = {name: pack(mask) for name, mask in tensors.items()}
    shapes = {name: list(mask.shape) for name, mask in tensors.items()}
    header = {"format": _FORMAT, "version": _VERSION, "bits": "big", "shapes": json.dumps(shapes)}
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(save(rows, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Tensor]:
    """Read the boolean tensors of a mask file, in the order they were written.

    Raises:
        FileNotFoundError: there is no such file.
        MaskError: the file is no mask file, is damaged, or was written by a newer Secateur.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no mask file at {path}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = _shapes(path, file.metadata() or {})
            rows = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise MaskError(f"{path} is not a mask file, or it is damaged: {error}") from error
    if rows.keys() != shapes.keys():
        odd = sorted(rows.keys() ^ shapes.keys())[0]
        raise MaskError(f"{path} is damaged: {odd!r} is missing from its header or from its data")
    return {name: _unpack(path, name, rows[name], shape) for name, shape in shapes.items()}


def _shapes(path: Path, header: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    if header.get("format") != _FORMAT:
        raise MaskError(f"{path} is a safetensors file but not a mask file; `Masks.save(path)` writes one")
    if header.get("version") != _VERSION or header.get("bits") != "big":
        raise MaskError(
            f"{path} is a mask file of version {header.get('version')!r}, and this Secateur reads version "
            f"{_VERSION!r}; update Secateur"
        )
    try:
        found = json.loads(header["shapes"])
        shapes = {name: tuple(shape) for name, shape in found.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise MaskError(f"{path} is damaged: its header holds no table of shapes") from error
    for name, shape in shapes.items():
        if not all(type(size) is int and size >= 0 for size in shape):
            raise MaskError(f"{path} is damaged: {name!r} has the shape {shape}")
    return shapes


def _unpack(path: Path, name: str, row: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    total = prod(shape)
    if row.dtype != np.uint8 or row.shape != ((total + 7) // 8,):
        raise MaskError(
            f"{path} is damaged: {name!r} of shape {shape} needs {(total + 7) // 8} bytes, "
            f"got {row.dtype} of shape {row.shape}"
        )
    bits = np.unpackbits(row)
    if bits[total:].any():
        raise MaskError(f"{path} is damaged: {name!r} has bits set behind its last weight")
    return torch.from_numpy(bits[:total].view(np.bool_).copy()).reshape(shape)
