"""Saving a model: values, masks and what was cut, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save as written
from torch import Tensor, nn

from secateur._base.arguments import SPARSE, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import LeakError, SecateurError
from secateur._base.files import sealed_tensors, write_whole
from secateur.coupling import lies_in
from secateur.holding import held
from secateur.masks import Masks, require_masks, unwrap
from secateur.shrinking.files._content import BITS, FORMAT, VERSION
from secateur.shrinking.manifests import Manifest, to_json

__all__ = ["Described", "Small", "described", "save"]


_PART = 1 << 20


@runtime_checkable
class Small(Protocol):
    """What `shrink` hands back: a model, with its manifest and masks."""

    @property
    def model(self) -> nn.Module:
        """The smaller model."""
        ...

    @property
    def manifest(self) -> Manifest:
        """What was cut."""
        ...

    @property
    def masks(self) -> Masks | None:
        """Of the smaller model, if it has zeros among what stayed."""
        ...


@dataclass(frozen=True, eq=False)
class Described:
    """What of a model goes into a file, checked.

    Attributes:
        model: the model itself, wrappers taken off.
        kind: "dense", "masked", "held" or "sparse".
        tensors: its state, each tensor once under its first name, where it lies.
        tied: other names of tied tensors, each with the first.
        packed: the mask of each masked tensor, under its first name, on the CPU.
        manifest: of the cut, if it was shrunk.
    """

    model: nn.Module
    kind: str
    tensors: Mapping[str, Tensor]
    tied: Mapping[str, str]
    packed: Mapping[str, Tensor]
    manifest: Manifest | None

    @property
    def name(self) -> str:
        """The class of the model."""
        return f"{type(self.model).__module__}.{type(self.model).__qualname__}"


def described(model: nn.Module | Small, masks: Masks | None, call: str) -> Described:
    """Say what of a model goes into a file; `call` is how the verb is written right. See `save`."""
    manifest = None
    if not isinstance(model, nn.Module) and isinstance(model, Small):
        model, masks, manifest = model.model, masks if masks is not None else model.masks, model.manifest
    require_model(model, call)
    model = unwrap(model)
    catch_up(model)
    kind, masks = _kind(model, masks, call)
    if manifest is not None and (odd := next((n for n in model.state_dict() if lies_in(n, manifest.removed)), None)):
        raise SecateurError(
            f"`model`: {odd!r} is of a block that its manifest says is gone: the layers were renumbered. "
            "model.save_pretrained(folder) saves a model of transformers; secateur.shrink keeps the numbers."
        )
    tensors, tied = _distinct(model)
    return Described(model, kind, tensors, tied, _packed(model, masks, tensors, tied), manifest)


def save(model: nn.Module | Small, masks: Masks | None, path: str | Path) -> None:
    """Save a model as one small file that is safe to open: dense, masked, held, sparsified or shrunk.

    A safetensors file without a line of code in it: of a masked tensor its surviving values and one bit for each
    weight, all else as it is, and in the header what was cut. It is written whole or not at all, with a checksum.
    `load` opens it, in the original constructor's model where the model was shrunk.

    Args:
        model: the model, or what `shrink` handed back.
        masks: which weights stay; None takes those that are held on the model, or that `shrink` left over.
        path: of the file, `model.safetensors`.

    Raises:
        MaskError: masks of another model.
        LeakError: a weight that its mask says is pruned is not zero.
        SecateurError: state that is no tensor, or of a type that safetensors does not know.
        OSError: it could not be written.

    >>> import tempfile
    >>> net = nn.Linear(100, 100, bias=False)
    >>> masks = Masks({"weight": torch.arange(10_000).reshape(100, 100) % 20 == 0})
    >>> masks.apply_(net)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(net, masks, f"{folder}/net.safetensors")
    ...     Path(f"{folder}/net.safetensors").stat().st_size < 4_000  # of 40,000 bytes: 500 values, 1,250 bytes of mask
    True
    """
    found = described(model, masks, "save(model, masks, path)")
    content: dict[str, Tensor] = {}
    for name, tensor in found.tensors.items():
        if name in found.packed:
            mask = found.packed[name]
            content[name] = _plain(tensor)[mask]
            content[name + BITS] = _bits(mask)
        else:
            content[name] = _plain(tensor)
    about = {
        "kind": found.kind,
        "model": found.name,
        "tied": found.tied,
        "packed": {name: list(mask.shape) for name, mask in found.packed.items()},
        "manifest": None if found.manifest is None else to_json(found.manifest),
    }
    header = {"format": FORMAT, "version": VERSION, "about": json.dumps(about, allow_nan=False, separators=(",", ":"))}
    try:
        raw = written(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as problem:
        raise SecateurError(f"`model` cannot be saved: {type(problem).__name__}: {problem}") from problem
    write_whole(Path(path), sealed_tensors(raw, header))


def _kind(model: nn.Module, masks: Masks | None, call: str) -> tuple[str, Masks | None]:
    """How the model is, and its masks: those that were given, or that are held on it."""
    sparse = any(getattr(module, SPARSE, False) for module in model.modules())
    if masks is not None:
        require_masks(masks, call)
        if not sparse:  # names of a wrapped model, or of a tied weight, are those that the model itself uses
            own = {id(parameter): name for name, parameter in model.named_parameters()}
            found = masks.parameters(model)
            masks = Masks({own[id(parameter)]: masks[name] for name, parameter in found.items()}, copy=False)
    holds = held(model)
    if masks is None and holds:
        masks = Masks({name: mask for each in holds for name, mask in each.masks.items()}, copy=False)
    if masks is None:
        if sparse:
            raise SecateurError("`masks` must be those that the model was sparsified with, got None.")
        return "dense", None
    return "sparse" if sparse else "held" if holds else "masked", masks


def _distinct(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model's state, each once under its first name; and the other names of tied ones."""
    first: dict[tuple[object, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise SecateurError(f"`model`: its state {name!r} must be a tensor to be saved, got a {kind}.")
        if tensor.is_meta:
            raise SecateurError(f"`model` must have values to be saved, got {name!r} on meta.")
        if name.endswith(BITS):
            raise SecateurError(f"`model`: no tensor may have a name that ends in {BITS!r}, got {name!r}.")
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        one = first.setdefault(place, name) if tensor.numel() else name
        if one == name:
            tensors[name] = tensor
        else:
            tied[name] = one
    return tensors, tied


def _packed(
    model: nn.Module, masks: Masks | None, tensors: dict[str, Tensor], tied: dict[str, str]
) -> dict[str, Tensor]:
    """The mask of each tensor, under its first name; all that it prunes is zero."""
    found: dict[str, Tensor] = {}
    for name, mask in (masks or {}).items():
        one = tied.get(name, name)
        if one not in tensors or tensors[one].shape != mask.shape:
            raise SecateurError(f"`masks`: {name!r} of shape {tuple(mask.shape)} is no tensor of the model's state.")
        mask = mask.cpu()
        leaked = _leaked(_plain(tensors[one]).reshape(-1), mask.reshape(-1))
        if leaked:
            raise LeakError(
                f"{leaked:,} weights of {name!r} are not zero, and their mask says that they are pruned: they would be "
                "lost. masks.apply_(model) writes the zeros."
            )
        found[one] = mask
    return found


def _leaked(values: Tensor, mask: Tensor) -> int:
    """How many values are not zero where the mask says so; part by part, since the whole would be copied."""
    parts = zip(values.split(_PART), mask.split(_PART), strict=True)
    return sum(int((part != 0).logical_and_(~keep).count_nonzero()) for part, keep in parts)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.reshape(-1).numpy()))
