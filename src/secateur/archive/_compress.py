"""Writing an archive: each tensor as the shortest of the records that were asked for, one at a time."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur._base.files import TYPE_NAMES, write_sealed
from secateur.archive._container import CODED, FORMAT, VERSION
from secateur.archive._directory import ENTRY, packed_directory
from secateur.archive._record import write
from secateur.archive._report import Report, inspect
from secateur.archive._supports import Support, bitmap, gaps, modelled
from secateur.archive._values import Values, exact
from secateur.coding import Coder, learnt, packed, plain, ranked
from secateur.masks import Masks, prunable
from secateur.shrinking.files import Described, Small, described
from secateur.shrinking.manifests import to_json

__all__ = ["CODERS", "SUPPORTS", "compress"]

#: How it may be told which weights are there; the shortest is taken.
SUPPORTS: tuple[Support, ...] = (modelled, gaps(5), bitmap)
#: How streams of bytes may be told; each has the shortest.
CODERS: tuple[Coder, ...] = (plain, packed, ranked, learnt)

_PIECE = 1 << 20


def compress(
    model: nn.Module | Small,
    masks: Masks | None,
    path: str | Path,
    *,
    values: Values | Callable[[str, Tensor], Values] = exact,
    supports: Sequence[Support] = SUPPORTS,
    coders: Sequence[Coder] = CODERS,
) -> Report:
    """Write a model as a really small file that is safe to open, and that `load` opens as it opens what `save` wrote.

    A safetensors file without a line of code in it. Each tensor is written as the shortest of what is asked for: which
    weights survive as gaps, as a bitmap or by an adaptive model of rows and columns; their values bit for bit, unless
    `values` says otherwise; all of it through the shortest of the coders. Whatever is not masked is kept bit for bit.

    Args:
        model: the model, dense, masked, held or sparsified, or what `shrink` handed back.
        masks: which weights stay; None takes those that are held on the model, or that `shrink` left over.
        path: of the file, `model.safetensors`.
        values: what becomes of the survivors of masked weights (without masks: of all weights that are prunable):
            `archive.exact`, `archive.shared(bits)`, `archive.int8()`, `archive.rounded(dtype)`; or a function of a
            weight's name and value that says which.
        supports: candidates for how it is told which weights survive.
        coders: candidates for how bytes are told: `(huffman,)` is Deep Compression's.

    Returns:
        `Report`: the size of the file, all of it counted, beside the entropy bound and other ways to store the model;
        and what the lossy stages lost.

    Raises:
        MaskError: masks of another model.
        LeakError: a weight that its mask says is pruned is not zero.
        SecateurError: state that is no tensor, of a type that safetensors does not know, or not finite where values
            are to be shared.
        OSError: it could not be written.

    Source:
        The stages are those of Han, Mao, Dally, Deep Compression, arXiv:1510.00149; the coders are Huffman's,
        asymmetric numeral systems (Duda, arXiv:1311.2540) and a range coder (Martin 1979).

    >>> import tempfile
    >>> from secateur import archive
    >>> net = nn.Linear(200, 100, bias=False)
    >>> masks = Masks({"weight": torch.arange(20_000).reshape(100, 200) % 20 == 0})
    >>> masks.apply_(net)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = compress(net, masks, f"{folder}/net.safetensors", values=archive.shared(4))
    >>> report.dense, report.bytes < 1600
    (80000, True)
    """
    for name, given, kind in (("supports", supports, Support), ("coders", coders, Coder)):
        if not len(given):
            raise SecateurError(f"`{name}` must have one at least, got none.")
        if wrong := [each for each in given if not isinstance(each, kind)]:
            raise SecateurError(f"`{name}` must be those of secateur.archive and secateur.coding, got {wrong[0]!r}.")
    found = described(model, masks, "compress(model, masks, path)")
    lossy = _chosen(found, values)
    path = Path(path)
    with tempfile.TemporaryFile(dir=path.parent) as room:
        plan = _Plan(room)
        for name, tensor in found.tensors.items():
            plan.add(name, tensor, found.packed.get(name), lossy.get(name, exact), supports, coders)
        about: dict[str, Any] = {"kind": found.kind, "model": found.name, "tensors": plan.entries()}
        if found.tied:
            about["tied"] = found.tied
        if found.manifest is not None:
            about["manifest"] = to_json(found.manifest)
        directory = packed_directory(about)
        size = len(directory) + plan.size
        whole = {ENTRY: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
        write_sealed(path, {"format": FORMAT, "version": VERSION}, whole, chain([directory], plan.data()))
    return inspect(path, errors=plan.errors)


def _chosen(found: Described, values: Values | Callable[[str, Tensor], Values]) -> dict[str, Values]:
    """What becomes of the values of each weight that may change; all is asked before anything is written."""
    if found.packed:
        names = [name for name in found.tensors if name in found.packed]
    else:
        own = set() if values == exact else _prunable(found.model)
        names = [name for name in found.tensors if name in own]
    chosen: dict[str, Values] = {}
    for name in names:
        one = values(name, found.tensors[name]) if callable(values) else values
        if not isinstance(one, Values):
            raise SecateurError(
                f"`values` must be exact, shared(bits), int8() or rounded(dtype), or return one of them; for {name!r} "
                f"it is {one!r}."
            )
        if not one.lossy or (found.tensors[name].is_floating_point() and found.tensors[name].itemsize > 1):
            chosen[name] = one
    return chosen


def _prunable(model: nn.Module) -> set[str]:
    try:
        return set(prunable(model))
    except SecateurError:  # nothing of it is
        return set()


@dataclass
class _Plan:
    """The tensors of an archive: records in a file without a name, and those that stay as they are."""

    room: BinaryIO
    records: dict[str, tuple[int, int]] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        name: str,
        tensor: Tensor,
        mask: Tensor | None,
        values: Values,
        supports: Sequence[Support],
        coders: Sequence[Coder],
    ) -> None:
        """Write the record of a tensor; without a mask the tensor itself stays where that is shorter."""
        if tensor.dtype not in TYPE_NAMES:
            raise SecateurError(
                f"`model` cannot be compressed: {name!r} is {tensor.dtype}, which safetensors does not know."
            )
        if name.endswith(CODED):
            raise SecateurError(f"`model`: no tensor may have a name that ends in {CODED!r}, got {name!r}.")
        weight, begin = tensor.detach().cpu().contiguous(), self.room.tell()
        there = mask.contiguous() if mask is not None else _not_zero(weight)
        try:
            error = write(self.room.write, weight, there, values, supports, coders, masked=mask is not None)
        except SecateurError as problem:
            raise type(problem)(f"{name!r}: {problem}") from None
        size = self.room.tell() - begin
        if mask is None and not values.lossy and size >= weight.numel() * weight.itemsize:
            self.room.seek(begin)
            self.room.truncate()
            self.whole[name] = tensor
            self.sums[name] = f"{_sum(weight):08x}"
            return
        self.records[name] = (begin, size)
        self.errors[name] = error

    @property
    def size(self) -> int:
        """Of the data, in bytes."""
        kept = sum(tensor.numel() * tensor.itemsize for tensor in self.whole.values())
        return kept + sum(size for _, size in self.records.values())

    def entries(self) -> list[list[Any]]:
        """What the directory says of each, in the order of the data: type, shape and checksum, or a record's size."""
        kept = [[name, TYPE_NAMES[each.dtype], list(each.shape), self.sums[name]] for name, each in self.whole.items()]
        return kept + [[name, size] for name, (_, size) in self.records.items()]

    def data(self) -> Iterator[Any]:
        """The data, piece by piece."""
        for tensor in self.whole.values():
            yield _memory(tensor.detach().cpu().contiguous())
        for begin, size in self.records.values():
            self.room.seek(begin)
            while size:
                piece = self.room.read(min(_PIECE, size))
                size -= len(piece)
                yield piece


def _not_zero(weight: Tensor) -> Tensor | None:
    """Which entries have a bit set; None where there are too many for their places to be worth telling."""
    if weight.numel() < 64 or weight.dtype == torch.bool:
        return None
    flat = weight.reshape(-1)
    wide = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.itemsize]
    first = flat[: 1 << 16].view(wide)
    if 16 * int((first != 0).sum()) > 15 * len(first):
        return None
    return (flat.view(wide) != 0).reshape(weight.shape)


def _memory(tensor: Tensor) -> Any:
    content: Any = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
    return memoryview(content)


def _sum(tensor: Tensor) -> int:
    return zlib.crc32(_memory(tensor))
