"""A fresh model of the original constructor, cut as a manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, nearest
from secateur.coupling import hold_own_widths, remove_, settle
from secateur.shrinking.cuts._cut import describe_, sliced
from secateur.shrinking.manifests import Manifest

__all__ = ["resize_"]


def resize_(model: nn.Module, manifest: Manifest, added: Mapping[str, tuple[int, ...]]) -> None:
    """Make a fresh model as small as the manifest's, in place; its values are whatever the fresh ones were.

    Args:
        model: as its original constructor makes it.
        manifest: of the cut.
        added: shapes of the parameters that a fold made.

    Raises:
        SecateurError: it is another model: a tensor, or an integer of its code, is not what the cut began with.
            Nothing is changed then.
    """
    tensors = {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }
    hold_own_widths(model)
    try:
        _require_same(model, manifest, tensors, added)
    except SecateurError:
        settle(model)
        raise
    remove_(model, manifest.removed)
    known: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, dims in manifest.kept.items():
            old = tensors[name]
            if id(old) not in known:  # a tied tensor stays tied
                known[id(old)] = _smaller(old, dims)
            _put(model, name, known[id(old)])
        for name, shape in added.items():
            like: Tensor = model.get_parameter(f"{name.rpartition('.')[0]}.weight".lstrip("."))
            _put(model, name, nn.Parameter(like.new_zeros(shape), like.requires_grad))
    for path, (_, new) in (*manifest.numbers.items(), *manifest.epsilons.items()):
        holder, name = _holder(model, path)
        setattr(holder, name, new)
    for module in model.modules():
        describe_(module)
    settle(model)


def _smaller(old: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Tensor:
    new = sliced(old.detach(), [(dim, torch.tensor(index)) for dim, index in dims.items()])
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, tensor)


def _require_same(
    model: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor], added: Mapping[str, tuple[int, ...]]
) -> None:
    kind = type(model).__name__
    for name, dims in manifest.kept.items():
        if name not in tensors:
            raise SecateurError(f"`model` has no {name!r}, which the file was cut from.{nearest(name, tensors)}{_NO}")
        shape, wanted = tuple(tensors[name].shape), manifest.shapes.get(name)
        if wanted is not None and shape != wanted:
            raise SecateurError(
                f"`model`: {name!r} must have the shape {wanted} of the model that was cut, got {shape}. Make "
                f"{kind} as it was made then.{_NO}"
            )
        for dim, index in dims.items():
            if dim >= len(shape) or max(index, default=0) >= shape[dim]:
                raise SecateurError(f"`model`: {name!r} of shape {shape} lacks indices that the cut kept.{_NO}")
    modules = dict(model.named_modules())
    for block in manifest.removed:
        if block.path not in modules or f"{block.path}.{block.function}" not in {*modules, f"{block.path}."}:
            raise SecateurError(
                f"`model` has no block {block.path!r} as that which the cut removed.{nearest(block.path, modules)}{_NO}"
            )
    for path, (old, _) in (*manifest.numbers.items(), *manifest.epsilons.items()):
        found = _value(model, path)
        if found != old:
            raise SecateurError(f"`model`: {path} must be {old}, as in the model that was cut, got {found!r}.{_NO}")
    for name in added:
        path, _, last = name.rpartition(".")
        module = modules.get(path)
        if module is None or not hasattr(module, "weight") or getattr(module, last, None) is not None:
            raise SecateurError(f"`model` has no layer without {name!r}, where the cut folded constants into one.{_NO}")


_NO = " Nothing was changed."


def _holder(model: nn.Module, path: str) -> tuple[Any, str]:
    *way, last = path.split(".")
    holder: Any = model
    for part in way:
        holder = getattr(holder, part)
    return holder, last


def _value(model: nn.Module, path: str) -> Any:
    try:
        holder, last = _holder(model, path)
        return getattr(holder, last)
    except AttributeError:
        return None
