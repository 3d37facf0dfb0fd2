"""All labels of a trace, and what is said of them while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.coupling.labels._classes import components
from secateur.coupling.labels._products import Factor, Ids, Products, Row

__all__ = ["Frozen", "Labels"]


@dataclass(frozen=True, eq=False)
class Frozen:
    """Labels that must stay, and why.

    Attributes:
        ids: the labels.
        why: the reason, in words.
        op: the operation that said so.
        module: the path of the module that was running; "" is the model itself.
        line: file and line of the user's code, as `model.py:12`.
    """

    ids: Ids
    why: str
    op: str
    module: str
    line: str

    def __str__(self) -> str:
        return f"{self.op}: {self.why} in {self.module or 'the model'} at {self.line}"


class Labels:
    """Which labels there are, which are one, which must stay, and which lists must stay equally long."""

    def __init__(self) -> None:
        self.count = 0
        self.pairs: list[tuple[Ids, Ids]] = []
        self.frozen: list[Frozen] = []
        self.equal: list[tuple[Ids, ...]] = []
        self.pieces: list[Ids] = []
        self.products = Products(self.fresh)

    def fresh(self, count: int) -> Ids:
        """Return `count` new labels."""
        self.count += count
        return np.arange(self.count - count, self.count, dtype=np.int32)

    def unite(self, one: Ids, other: Ids) -> None:
        """Make one label of `one[i]` and `other[i]`, for every i."""
        if one is not other and not (one[0] == other[0] and np.array_equal(one, other)):
            self.pairs.append((one, other))

    def keep_equal(self, parts: Sequence[Ids]) -> None:
        """Demand that as many of each part stay."""
        self.equal.append(tuple(parts))

    def regroup(self, factors: Sequence[Factor], sizes: Sequence[int]) -> list[Row] | None:
        """Read dimensions as others, as `Products.regroup` does."""
        return self.products.regroup(factors, sizes)

    def roots(self) -> Ids:
        """Return the smallest label of each label's class."""
        sides = [np.concatenate([np.zeros(0, np.int32), *(pair[k] for pair in self.pairs)]) for k in (0, 1)]
        return components(self.count, *sides)
