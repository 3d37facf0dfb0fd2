"""Opening a model's file: into a fresh model of the original constructor, or as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError, nearest
from secateur._base.text import shown
from secateur.coupling import lies_in
from secateur.holding import held, hold
from secateur.masks import Masks, unwrap
from secateur.shrinking.cuts import resize_
from secateur.shrinking.files._content import Content
from secateur.shrinking.files._read import read
from secateur.shrinking.manifests import Manifest

__all__ = ["Loaded", "load", "open_content"]

_NO = " Nothing was changed."


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a file held. Unpacks: `model, masks, manifest = load(path, model)`.

    Attributes:
        model: the model that was given, filled, or what `into` made of it; None where none was given.
        masks: which weights stay, if it has masks.
        manifest: of the cut, if the model was shrunk.
        kind: "dense", "masked", "held" or "sparse": how the model was when it was saved.
        state: name → tensor, where no model was given: what `load_state_dict` takes.
    """

    model: nn.Module | None
    masks: Masks | None
    manifest: Manifest | None
    kind: str
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.masks, self.manifest))


def load(
    path: str | Path, model: nn.Module | None = None, *, into: Callable[[nn.Module, Masks], object] | None = None
) -> Loaded:
    """Open what `save` wrote, in a fresh process too: no code is run that a file could bring.

    A shrunk model opens in the model of its original constructor, which is made as small as it was. A model that was
    held is held again. Everything is checked before anything of the model is changed.

    Args:
        path: of the file.
        model: as its constructor makes it, on any device or on meta; it is filled in place. None returns tensors.
        into: what to make of it with its masks, as `hold` or `sparsify`.

    Returns:
        `Loaded`: the model, its masks and the manifest of its cut.

    Raises:
        FileNotFoundError: there is no such file.
        SecateurError: a damaged, foreign or newer file, or another model: it names the first tensor that does not fit.

    >>> import tempfile
    >>> from secateur.shrinking import shrink
    >>> shrunk = shrink(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 0.5, torch.zeros(2, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shrunk.save(f"{folder}/net")
    ...     net, _, manifest = load(f"{folder}/net", nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    >>> net[0].out_features, len(manifest.kept["0.weight"][0])
    (4, 4)
    """
    return open_content(read(path), path, model, into)


def open_content(
    content: Content, path: str | Path, model: nn.Module | None, into: Callable[[nn.Module, Masks], object] | None
) -> Loaded:
    """Open what was read from a file: into a model, or as tensors. See `load`."""
    if into is not None and content.masks is None:
        raise SecateurError(f"`into` wants masks, and {shown(path)} has none: it holds a {content.kind} model.")
    if model is None:
        if into is not None:
            raise SecateurError("`into` makes something of a model: pass one as `model`.")
        return Loaded(None, content.masks, content.manifest, content.kind, content.state)
    require_model(model, "load(path, model)")
    refuse_sparsified(model, "`load`")
    catch_up(model)
    fill_(unwrap(model), content)
    made: object = None
    if content.masks is not None and into is not None:
        made = into(model, content.masks)
    elif content.masks is not None and content.kind == "held":
        hold(model, content.masks)
    return Loaded(made if isinstance(made, nn.Module) else model, content.masks, content.manifest, content.kind)


def fill_(model: nn.Module, content: Content) -> None:
    """Make a fresh model as small as the file's, and fill it; all is checked before."""
    if held(model):
        raise SecateurError(f"`model` must be a fresh one, got one on which masks are held: release them first.{_NO}")
    state, manifest = content.state, content.manifest
    removed = () if manifest is None else manifest.removed
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in state and lies_in(name, removed) is None:
            raise SecateurError(
                f"`model`: its buffer {name!r} is on meta, and no file holds it: make the model on the CPU.{_NO}"
            )
    added = () if manifest is None else manifest.added
    own = {n: tensor for n, tensor in model.state_dict(keep_vars=True).items() if lies_in(n, removed) is None}
    for name, tensor in own.items():
        if name not in state:
            raise SecateurError(
                f"`model` has {name!r}, which the file of a {content.model} does not hold.{nearest(name, state)}{_NO}"
            )
        _require_fit(name, tensor, state[name], manifest)
    for name in state:
        if name not in own and name not in added:
            raise SecateurError(
                f"`model` has no {name!r}, which the file of a {content.model} holds.{nearest(name, own)}{_NO}"
            )
    _require_ties(own, content)
    if manifest is not None:
        resize_(model, manifest, {name: tuple(state[name].shape) for name in added if name in state})
    _copy(model, content)


def _require_fit(name: str, own: Tensor, value: Tensor, manifest: Manifest | None) -> None:
    kept = {} if manifest is None else manifest.kept.get(name, {})
    shape = tuple(len(kept[dim]) if dim in kept else n for dim, n in enumerate(own.shape))
    if shape != tuple(value.shape):
        cut = f", {shape} after the cut" if kept else ""
        raise SecateurError(
            f"`model`: {name!r} has the shape {tuple(own.shape)}{cut}, and the file holds one of "
            f"{tuple(value.shape)}.{_NO}"
        )
    if torch.promote_types(own.dtype, value.dtype) != own.dtype:
        raise SecateurError(
            f"`model`: {name!r} is {own.dtype}, which cannot hold the file's {value.dtype}: model.to({value.dtype}) "
            f"first.{_NO}"
        )


def _require_ties(own: Mapping[str, Any], content: Content) -> None:
    """Tensors that are one in the model have one value in the file."""
    first: dict[int, str] = {}
    for name, tensor in own.items():
        other = first.setdefault(id(tensor), name)
        one, two = content.first(other), content.first(name)
        if one != two and not torch.equal(content.value(one), content.value(two)):
            raise SecateurError(f"`model`: {other!r} and {name!r} are one tensor, and the file has two values.{_NO}")


def _copy(model: nn.Module, content: Content) -> None:
    """Write values; what is on meta gets memory, tied tensors stay tied."""
    made: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not tensor.is_meta:
                if id(tensor) not in made:
                    content.write(name, tensor)
                made[id(tensor)] = tensor
                continue
            if id(tensor) not in made:
                value = content.value(name).to(tensor.dtype, copy=True)
                weight = isinstance(tensor, nn.Parameter)
                made[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if weight else value
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, made[id(tensor)])
