"""How many bytes of an archive go where, beside what theory asks for and what others would need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path

from secateur._base.errors import SecateurError
from secateur._base.text import shown
from secateur.archive._container import CODED, Container, damage_of, is_archive, opened
from secateur.archive._record import parts, read_head
from secateur.archive._values import DTYPES

__all__ = ["Report", "TensorSize", "inspect"]

_KINDS = ("exact", "codebook", "int8", "rounded")


@dataclass(frozen=True)
class TensorSize:
    """Where the bytes of one tensor go.

    Attributes:
        name, shape, dtype: of the tensor.
        kept: entries that are told: of a masked weight its survivors.
        masked: whether it has a mask.
        support: how it is told which they are: "all", "bitmap", "gaps(5)" or "modelled".
        values: how they are told: "plain" (a tensor as it is), "exact", "codebook", "int8" or "rounded".
        bytes: of its record, or of the tensor as it is.
        support_bytes, value_bytes: of both in it, tables of codes included.
        codebook_bytes: of shared values, or of scales.
        bound: bytes that its places, its values and its codebook need at least: each place by the model that tells it,
            each byte of a value by its frequency alone, or by its bits where those are what is written.
        error: √(mean square of what a survivor lost); None where that is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kept: int
    masked: bool
    support: str
    values: str
    bytes: int
    support_bytes: int
    value_bytes: int
    codebook_bytes: int
    bound: float
    error: float | None = None

    @property
    def other_bytes(self) -> int:
        """Of its head, of lengths, of what fills it up, and of its checksum."""
        return self.bytes - self.support_bytes - self.value_bytes - self.codebook_bytes


@dataclass(frozen=True)
class Report:
    """The size of an archive; every byte of the file is counted.

    Attributes:
        path: of the file.
        kind: "dense", "masked", "held" or "sparse": how the model was.
        bytes: of the file.
        header: bytes before its data: names, shapes, checksums, what was cut.
        tensors: where the others go.
        dense: bytes of all tensors as they are in the model, float32 weights in four bytes each.
        csr: bytes with masked weights as compressed sparse rows: a value and a column of four bytes for each survivor,
            an offset of four bytes for each row and one more; the others as they are.
    """

    path: Path
    kind: str
    bytes: int
    header: int
    tensors: tuple[TensorSize, ...]
    dense: int
    csr: int

    @property
    def bound(self) -> float:
        """Bytes that the tensors need at least, by the models that tell them; no header."""
        return sum(each.bound for each in self.tensors)

    @property
    def over(self) -> float:
        """By how much the file is larger than its bound, as a fraction."""
        return self.bytes / self.bound - 1 if self.bound else 0.0

    @property
    def ratio(self) -> float:
        """How many times smaller than the dense tensors the file is."""
        return self.dense / self.bytes

    def __str__(self) -> str:
        rows = [
            ("tensor", "kept", "support", "values", "codebook", "other", "bytes", "bound", "error"),
            *map(_row, self.tensors),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        end = (
            f"file {self.bytes:,} bytes, {self.header:,} of them header: {self.ratio:.1f}× smaller than dense "
            f"({self.dense:,}), csr {self.csr:,}; entropy bound {self.bound:,.0f}, {self.over:+.1%}"
        )
        return "\n".join([*lines, end])


def _row(each: TensorSize) -> tuple[str, ...]:
    error = "" if each.values in ("plain", "exact") else "?" if each.error is None else f"{each.error:.2e}"
    return (
        each.name,
        f"{each.kept:,} of {prod(each.shape):,}",
        f"{each.support} {each.support_bytes:,}",
        f"{each.values} {each.value_bytes:,}",
        f"{each.codebook_bytes:,}",
        f"{each.other_bytes:,}",
        f"{each.bytes:,}",
        f"{each.bound:,.0f}",
        error,
    )


def inspect(path: str | Path, *, errors: Mapping[str, float] | None = None) -> Report:
    """Say how many bytes of an archive go where; all of it is decoded, a block at a time.

    Args:
        path: of the file.
        errors: name → squared error of a tensor, where whoever wrote it knows.

    Raises:
        FileNotFoundError: there is none.
        SecateurError: it is no archive, damaged, or of a newer version.
    """
    if not is_archive(path) and Path(path).is_file():
        raise SecateurError(f"{shown(path)} is no archive: secateur.compress writes one.")
    with opened(path) as file, damage_of(file.path):
        rows = tuple(_size(file, stored, errors or {}) for stored in file.entries)
        dense = sum(_dense(row) for row in rows)
        return Report(file.path, file.about["kind"], file.size, file.header, rows, dense, sum(map(_csr, rows)))


def _itemsize(row: TensorSize) -> int:
    return next(dtype.itemsize for dtype in DTYPES if str(dtype) == row.dtype)


def _dense(row: TensorSize) -> int:
    return prod(row.shape) * _itemsize(row)


def _csr(row: TensorSize) -> int:
    if not row.masked:
        return _dense(row)
    rows = row.shape[0] if len(row.shape) > 1 else 1
    return row.kept * (_itemsize(row) + 4) + 4 * (rows + 1)


def _size(file: Container, stored: str, errors: Mapping[str, float]) -> TensorSize:
    name = stored.removesuffix(CODED)
    if name == stored:
        value = file.plain(name)
        size = value.numel() * value.itemsize
        shape, dtype = tuple(value.shape), str(value.dtype)
        return TensorSize(name, shape, dtype, value.numel(), False, "all", "plain", size, 0, size, 0, size, 0.0)
    content = file.record(stored)
    head = read_head(content)
    kept = support_bytes = value_bytes = 0
    bits = 0.0
    for part in parts(content):
        kept += len(part.values)
        support_bytes += part.support_bytes
        value_bytes += part.value_bytes
        bits += part.bound()
    error = None if name not in errors else sqrt(errors[name] / max(kept, 1))
    return TensorSize(
        name, head.shape, str(head.dtype), kept, head.masked, head.support, _KINDS[head.values], len(content),
        support_bytes, value_bytes, head.codebook, bits / 8 + head.codebook, 0.0 if head.values == 0 else error,
    )  # fmt: skip
