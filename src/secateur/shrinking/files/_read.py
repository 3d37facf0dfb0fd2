"""Reading a model's file: nothing is believed that it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.files import CHECKSUM, why_damaged
from secateur._base.text import shown
from secateur.masks import Masks
from secateur.shrinking.files._content import BITS, FORMAT, KINDS, VERSION, Content
from secateur.shrinking.manifests import from_json

__all__ = ["read"]

_INDICES = 64  # that a manifest may speak of for each byte of the file: each index kept is stored, a bit at least


def read(path: str | Path) -> Content:
    """Read a file that `save` wrote, masked tensors in full.

    Raises:
        FileNotFoundError: there is none.
        SecateurError: it is something else, damaged, or of a newer version; says which.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file of a model at {shown(path)}")
    if not path.is_file():
        raise SecateurError(f"{shown(path)} is no file: expected one that secateur.save wrote.")
    why = why_damaged(path)
    if why is not None:
        raise _damaged(path, why)
    try:
        with safe_open(str(path), framework="pt") as file:
            about = _about(path, file.metadata() or {})
            return _content(path, about, file)
    except SafetensorError as problem:
        raise SecateurError(f"{shown(path)} is not a model's file, or it is damaged: {shown(problem)}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, RuntimeError) as problem:
        if isinstance(problem, SecateurError):
            raise
        raise _damaged(path, shown(problem)) from None


def _damaged(path: Path, why: str) -> SecateurError:
    return SecateurError(f"{shown(path)} is damaged: {why}. Take another copy of it, or save the model again.")


def _about(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    kind = header.get("format")
    if kind == "secateur.masks":
        raise SecateurError(f"{shown(path)} holds masks and no model: secateur.Masks.load reads it.")
    if kind == "secateur.archive":
        raise SecateurError(f"{shown(path)} is an archive: secateur.load opens it, whole or in a model.")
    if kind != FORMAT:
        raise SecateurError(
            f"{shown(path)} is a safetensors file, but not one that secateur.save wrote: safetensors.torch.load_file "
            "reads its tensors."
        )
    if header.get("version") != VERSION:
        raise SecateurError(
            f"{shown(path)} is a model's file of version {shown(repr(header.get('version')))}, and this Secateur reads "
            f"version {VERSION!r}: update Secateur."
        )
    if CHECKSUM not in header:
        raise ValueError("it has no checksum")
    about = json.loads(header["about"])
    if not isinstance(about, dict) or about.get("kind") not in KINDS or not isinstance(about.get("model"), str):
        raise ValueError("its header does not say what it holds")
    return about


def _content(path: Path, about: Mapping[str, Any], file: Any) -> Content:
    most = _INDICES * path.stat().st_size
    packed = {name: _shape(name, shape) for name, shape in _entries(about, "packed")}
    tied = {name: _named(first) for name, first in _entries(about, "tied")}
    names = set(file.keys())
    bits = {name + BITS for name in packed}
    if odd := sorted(((bits | packed.keys()) - names) | {each for each in names - bits if each.endswith(BITS)}):
        raise ValueError(f"{odd[0]!r} is missing from its header or from its data")
    if odd := sorted(name for name, first in tied.items() if first not in names or name in names):
        raise ValueError(f"{odd[0]!r} is tied to nothing that it holds")
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name in file.keys():  # noqa: SIM118 (no mapping)
        if name in packed:
            masks[name] = _mask(name, file.get_tensor(name + BITS), packed[name])
            tensors[name] = _spread(name, file.get_tensor(name), masks[name])
        elif name not in bits:
            tensors[name] = file.get_tensor(name)
    if not all(name in packed for name in masks) or (about["kind"] != "dense") != bool(masks):
        raise ValueError("it does not say of all masks whose they are")
    manifest = None if about.get("manifest") is None else from_json(about["manifest"], most=most)
    found = Masks({name: masks[name] for name in packed}, copy=False) if masks else None
    return Content(about["kind"], about["model"], tensors, tied, found, manifest)


def _entries(about: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    if not isinstance(about.get(key), dict):
        raise ValueError(f"its header holds no table `{key}`")
    return list(about[key].items())


def _named(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a name was expected")
    return value


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > 64 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError(f"{name!r} has no shape")
    if prod(max(n, 1) for n in shape) >= 1 << 62:
        raise ValueError(f"{name!r} has the shape {shape}")
    return tuple(shape)


def _mask(name: str, bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    total = prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != ((total + 7) // 8,):
        raise ValueError(f"the mask of {name!r} has not as many bits as there are weights")
    flat = np.unpackbits(bits.numpy())
    if flat[total:].any():
        raise ValueError(f"the mask of {name!r} has bits set behind its last weight")
    return torch.from_numpy(flat[:total].view(np.bool_).copy()).reshape(shape)


def _spread(name: str, values: Tensor, mask: Tensor) -> Tensor:
    """Put surviving values at their places, zeros elsewhere."""
    if values.shape != (int(mask.sum()),):
        raise ValueError(f"{name!r} has {values.numel()} values, and its mask keeps {int(mask.sum())}")
    full = torch.zeros(mask.shape, dtype=values.dtype)
    full[mask] = values
    return full
