"""Opening an archive: into a model, tensor by tensor, or as tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.archive._container import CODED, Container, damage_of, is_archive, opened
from secateur.archive._record import parts, read, read_head
from secateur.masks import Masks
from secateur.shrinking import Loaded
from secateur.shrinking import load as load_plain
from secateur.shrinking.files import KINDS, Content, open_content
from secateur.shrinking.manifests import from_json

__all__ = ["load", "tensors_of"]

_INDICES = 64  # that a manifest may speak of for each byte of the file


def load(
    path: str | Path, model: nn.Module | None = None, *, into: Callable[[nn.Module, Masks], object] | None = None
) -> Loaded:
    """Open what `save` or `compress` wrote, in a fresh process too: no code is run that a file could bring.

    A shrunk model opens in the model of its original constructor, which is made as small as it was. A model that was
    held is held again. Everything is checked before anything of the model is changed. An archive is read a tensor at a
    time, twice: to check it, and into the model.

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
    >>> from secateur.archive import compress
    >>> net = nn.Linear(100, 100, bias=False)
    >>> masks = Masks({"weight": torch.arange(10_000).reshape(100, 100) % 20 == 0})
    >>> masks.apply_(net)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = compress(net, masks, f"{folder}/net")
    ...     found, again, _ = load(f"{folder}/net", nn.Linear(100, 100, bias=False))
    >>> torch.equal(found.weight, net.weight), again == masks
    (True, True)
    """
    if not is_archive(path):
        return load_plain(path, model, into=into)
    with opened(path) as file:
        with damage_of(file.path):
            content = _checked(file, whole=model is None)
        return open_content(content, path, model, into)


def _checked(file: Container, *, whole: bool) -> Content:
    """All of an archive's content, or what is to be known of it; either way all of it was decoded."""
    about = file.about
    if about["kind"] not in KINDS:
        raise ValueError("its header does not say what it holds")
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for stored in file.entries:
        name = stored.removesuffix(CODED)
        try:
            value, mask = _value(file, stored) if whole else _stand_in(file, stored)
        except ValueError as problem:
            raise ValueError(f"{name!r}: {problem}") from None
        tensors[name] = value
        if mask is not None:
            masks[name] = mask
    if (about["kind"] != "dense") != bool(masks):
        raise ValueError("it does not say of all masks whose they are")
    manifest = None if about.get("manifest") is None else from_json(about["manifest"], most=_INDICES * file.size)
    found = Masks(masks, copy=False) if masks else None
    reader = None if whole else _reader(file)
    return Content(about["kind"], about["model"], tensors, about["tied"], found, manifest, reader)


def _value(file: Container, stored: str) -> tuple[Tensor, Tensor | None]:
    return read(file.record(stored)) if stored.endswith(CODED) else (file.plain(stored), None)


def _stand_in(file: Container, stored: str) -> tuple[Tensor, Tensor | None]:
    """Type and shape of a tensor, and its mask; the rest is decoded and let go."""
    if not stored.endswith(CODED):
        return file.plain(stored).to("meta"), None
    content = file.record(stored)
    head = read_head(content)
    mask = torch.ones(head.shape, dtype=torch.bool) if head.masked else None
    for part in parts(content):
        if mask is not None:
            flags = torch.from_numpy(part.flags).view(torch.bool)
            mask.view(-1)[part.begin : part.begin + len(flags)] = flags
    return torch.empty(head.shape, dtype=head.dtype, device="meta"), mask


def _reader(file: Container) -> Callable[[str, Tensor | None], Tensor]:
    """What decodes one tensor, straight into the memory of its parameter where that is plain."""

    def read_one(name: str, into: Tensor | None) -> Tensor:
        if name in file.entries:
            value = file.plain(name)
        else:
            content: Any = file.record(name + CODED)
            head = read_head(content)
            if into is not None and _is_plain(into) and into.dtype == head.dtype and into.shape == head.shape:
                return read(content, into.detach())[0]
            value = read(content)[0]
        return value if into is None else into.copy_(value)

    return read_one


def _is_plain(tensor: Tensor) -> bool:
    known = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    return known and tensor.device.type == "cpu" and tensor.is_contiguous()


def tensors_of(path: str | Path) -> dict[str, Tensor]:
    """Return all tensors of an archive by name, tied ones under each of their names.

    Raises:
        FileNotFoundError: there is none.
        SecateurError: it is none, damaged, or of a newer version.
    """
    if not is_archive(path) and Path(path).is_file():
        raise SecateurError(f"{path} is no archive: secateur.compress writes one.")
    with opened(path) as file, damage_of(file.path):
        return _checked(file, whole=True).state
