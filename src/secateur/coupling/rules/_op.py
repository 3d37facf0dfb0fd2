"""One call of an operation, as a rule sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.coupling.labels import Factor, Ids, Row
from secateur.coupling.numbers import Attribute, Number
from secateur.coupling.rules._book import Book, Need, Place

__all__ = ["Op", "tensors_in"]

_FIXED = "meets a dimension of fixed size"


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in an argument, those in lists and tuples too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


class Op:
    """One call of an operation: its arguments by name, its result, and what may be said of labels.

    Attributes:
        name: of the operation, without overload.
        args: by the names of torch's schema, defaults filled in.
        out: the result.
        book: what is written down.
        place: where it was called.
        module: the module that was running.
        sizes: the integers of the Python call around it, which may remember where they came from.
    """

    def __init__(
        self, name: str, args: dict[str, Any], out: Any, book: Book, place: Place, module: nn.Module, sizes: list[int]
    ) -> None:
        self.name, self.args, self.out, self.book = name, args, out, book
        self.place, self.module, self.sizes = place, module, sizes
        self._accounted: set[int] = set()
        self._tensors: list[Tensor] | None = None

    # ------------------------------------------------------------------ looking
    def __getitem__(self, name: str) -> Any:
        return self.args.get(name)

    def tensor(self, *names: str) -> Tensor:
        """Return the first argument of these names that is given."""
        return next(self.args[name] for name in names if isinstance(self.args.get(name), Tensor))

    def tensors(self) -> list[Tensor]:
        """List all tensors among the arguments."""
        if self._tensors is None:
            self._tensors = list(tensors_in(list(self.args.values())))
        return self._tensors

    def outs(self) -> list[Tensor]:
        """List all tensors of the result."""
        return list(tensors_in(self.out))

    def rows(self, tensor: Tensor | str) -> list[Row]:
        """Return the labels of a tensor, or of the argument of this name, one row per dimension; for reading."""
        return list(self.book.rows(self.args[tensor] if isinstance(tensor, str) else tensor))

    # ------------------------------------------------------------------ saying
    def take(self, *rows: Row) -> None:
        """Say that these labels are accounted for: passed on in part, or in another order."""
        self._accounted.update(id(ids) for ids in rows if ids is not None)

    def is_accounted(self, ids: Ids) -> bool:
        """Whether a rule has said something of these labels."""
        return id(ids) in self._accounted

    def freeze(self, ids: Row, why: str) -> None:
        """Let these labels stay."""
        self.take(ids)
        self.book.freeze(ids, why, self.place)

    def frozen(self, count: int, why: str) -> Ids:
        """Return new labels that must stay."""
        ids = self.book.labels.fresh(count)
        self.freeze(ids, why)
        return ids

    def meet(self, one: Row, other: Row, why: str = _FIXED) -> Row:
        """Make one of two rows; a fixed side freezes the other."""
        if one is other:
            self.take(one)
            return one
        self.take(one, other)
        if one is None or other is None:
            self.freeze(one if other is None else other, why)
            return None
        self.book.labels.unite(one, other)
        return one

    def same(self, tensor: Tensor | None, dim: int, ids: Row, *, reads: bool = False, why: str = _FIXED) -> None:
        """Say that a dimension of a tensor has the labels `ids`; of size 1 it is broadcast and says nothing.

        Args:
            tensor: most often a parameter; None says nothing.
            dim: which dimension.
            ids: its labels.
            reads: whether this operation sums over the dimension.
            why: where `ids` are fixed.
        """
        if tensor is None or tensor.shape[dim] == 1:
            return
        dim %= tensor.ndim
        self.book.role(tensor, dim, reads=reads)
        if ids is None or len(ids) != tensor.shape[dim] or not self.book.first_as(tensor, dim, ids):
            self.meet(self.book.rows(tensor)[dim], ids, why)
        else:
            self.take(ids)

    def regroup(self, factors: Sequence[Factor], sizes: Sequence[int]) -> list[Row]:
        """Read dimensions as others; where the new ones cut through the old, all are frozen."""
        rows = [ids for _, ids in factors]
        found = self.book.labels.regroup(factors, sizes)
        self.take(*rows)
        if found is None:
            for ids in rows:
                self.freeze(ids, f"{_text(factors)} cannot be read as {' x '.join(map(str, sizes))}")
            return [None] * len(sizes)
        return found

    def keep_equal(self, parts: Sequence[Ids]) -> None:
        """Say that as many of each part must stay."""
        self.take(*parts)
        self.book.labels.keep_equal(parts)
        self.book.labels.pieces += parts

    # ------------------------------------------------------------------ sizes in the user's code
    def need(self, size: int, ids: Row, count: int) -> None:
        """Say that the user's code sizes a dimension: by an expression, solved after the cut, or by a literal."""
        if isinstance(size, Number):
            self.book.needs.append(Need(size.expression, ids, count, self.place))
        elif size >= 0 and _is_users(self.module):
            self.freeze(ids, f"the number {int(size)} in the user's code")

    def attribute(self, name: str, ids: Row) -> None:
        """Say that an attribute of the running module is the number of labels kept; without one, they stay."""
        value = getattr(self.module, name, None)
        if ids is not None and isinstance(value, int):
            self.take(ids)
            self.book.needs.append(Need(Attribute(self.place.module, "", name, int(value)), ids, len(ids), self.place))
        else:
            self.freeze(ids, f"`{name}` is a number in the user's code")

    def sized(self, rows: Sequence[Row], shape: torch.Size) -> list[Row]:
        """Say that the Python call gave the sizes of the result, where it did."""
        fits = len(self.sizes) == len(shape)
        fits = fits and all(int(size) in (-1, n) for size, n in zip(self.sizes, shape, strict=True))
        for k, (ids, n) in enumerate(zip(rows, shape, strict=True)):
            self.need(self.sizes[k] if fits else -1, ids, n)
        return list(rows)

    def rescale(self, ids: Row) -> bool:
        """Say that the root mean square over `ids` is made right after a cut; False where no such norm is running."""
        norm = self.book.norms.get(self.place.module)
        if ids is None or norm is None:
            return False
        self.take(ids)
        self.book.rescaled.append((norm, ids))
        return True

    def waive(self, ids: Row, kind: str) -> bool:
        """Say that a cut of `ids` changes the function here, and was allowed by this name; False where it was not."""
        if ids is None or kind not in self.book.inexact:
            return False
        self.take(ids)
        self.book.waived.append((kind, ids))
        return True

    def several(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Return the same labels for each tensor of the result."""
        return [list(rows) for _ in self.outs()]


def _is_users(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] != "torch" or type(module) is nn.Sequential


def _text(factors: Sequence[Factor]) -> str:
    return " x ".join(str(length) for length, _ in factors)
