"""Dimensions that are products of others: channels = heads x width of a head, and their like.

Every dimension of every tensor has labels of one kind, so that no rule of an operation needs to know what was reshaped.
What ties a merged dimension to its factors is a `Product`: an entry stays exactly where all of its factors stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Factor", "Ids", "Product", "Products", "Row"]

#: One label for each index of a dimension, `int32`.
Ids = NDArray[Any]
#: The labels of a dimension; None is fixed: an input, space, a batch, one entry.
Row = Ids | None
#: How long a factor of a dimension is, and its labels.
Factor = tuple[int, Row]


@dataclass(frozen=True, eq=False)
class Product:
    """A dimension that is the product of others.

    Attributes:
        merged: labels of the product, one axis for each factor.
        factors: labels along each axis; None where the factor is fixed.
    """

    merged: Ids
    factors: tuple[Row, ...]

    def axes(self) -> list[tuple[int, Ids, list[int], tuple[int, ...]]]:
        """List axis, labels, shape to broadcast them, and the other axes, for each factor that has labels."""
        rank = self.merged.ndim
        return [
            (k, ids, [-1 if i == k else 1 for i in range(rank)], tuple(i for i in range(rank) if i != k))
            for k, ids in enumerate(self.factors)
            if ids is not None
        ]


class Products:
    """All products met so far; what is split again, or merged again, gets the labels that it had.

    Args:
        fresh: makes so many new labels.
    """

    def __init__(self, fresh: Callable[[int], Ids]) -> None:
        self._fresh = fresh
        self._by_merged: dict[int, list[Product]] = {}
        self._by_factors: dict[tuple[tuple[int, int], ...], list[Product]] = {}
        self.all: list[Product] = []

    def regroup(self, factors: Sequence[Factor], sizes: Sequence[int]) -> list[Row] | None:
        """Read a run of dimensions as a run of other sizes; None where the new ones cut through the old.

        Args:
            factors: the old dimensions, the outermost first.
            sizes: of the new ones, with the same product.
        """
        queue = [factor for factor in factors if factor[0] > 1]
        found: list[Row] = []
        for size in sizes:
            taken: list[Factor] = []
            while size > 1:
                length, ids = queue.pop(0)
                if size % length == 0:
                    taken.append((length, ids))
                    size //= length
                elif length % size == 0:
                    queue[:0] = self._split(length, ids, size)
                else:
                    return None
            found.append(self._merge(taken))
        return found

    def _split(self, length: int, ids: Row, first: int) -> list[Factor]:
        if ids is None:
            return [(first, None), (length // first, None)]
        table = ids.reshape(first, -1)
        if (table == table[0]).all():  # repeated: a merge with a fixed dimension
            return [(first, None), (length // first, table[0])]
        if (table == table[:, :1]).all():
            return [(first, table[:, 0].copy()), (length // first, None)]
        for known in self._by_merged.get(int(ids[0]), ()):
            shape = known.merged.shape
            if known.merged.size == length and first in np.cumprod(shape) and np.array_equal(known.merged.ravel(), ids):
                return list(zip(shape, known.factors, strict=True))
        made = self._add(table, (self._fresh(first), self._fresh(length // first)))
        return list(zip(table.shape, made.factors, strict=True))

    def _merge(self, taken: Sequence[Factor]) -> Row:
        labelled = [k for k, (_, ids) in enumerate(taken) if ids is not None]
        if len(taken) == 1 or not labelled:
            return taken[0][1] if taken else None
        shape = tuple(length for length, _ in taken)
        factors = tuple(ids for _, ids in taken)
        if len(labelled) == 1:
            (k,) = labelled
            ids = factors[k]
            assert ids is not None
            return np.broadcast_to(ids.reshape([-1 if i == k else 1 for i in range(len(shape))]), shape).ravel()
        for known in self._by_factors.get(_key(shape, factors), ()):
            if all(_same(a, b) for a, b in zip(known.factors, factors, strict=True)):
                return known.merged.ravel()
        return self._add(self._fresh(math.prod(shape)).reshape(shape), factors).merged.ravel()

    def _add(self, merged: Ids, factors: tuple[Row, ...]) -> Product:
        product = Product(merged, factors)
        self.all.append(product)
        self._by_merged.setdefault(int(merged.flat[0]), []).append(product)
        self._by_factors.setdefault(_key(merged.shape, factors), []).append(product)
        return product


def _key(shape: tuple[int, ...], factors: tuple[Row, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((size, -1 if ids is None else int(ids[0])) for size, ids in zip(shape, factors, strict=True))


def _same(one: Row, other: Row) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))
