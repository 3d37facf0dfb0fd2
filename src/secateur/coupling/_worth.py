"""What units are worth, from what the rows that make them are worth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from secateur.coupling._coupling import Coupling
from secateur.coupling.labels import Ids

__all__ = ["worth_of"]


def worth_of(coupling: Coupling, rows: Iterable[tuple[Ids, np.ndarray]]) -> np.ndarray:
    """Sum up what is worth something to each class, one float64 per class.

    A factor of a product is worth what its entries are: a head, the sum over its places.

    Args:
        coupling: what is tied to what.
        rows: classes of a dimension, and what each of its indices is worth.
    """
    worth = np.zeros(coupling.count)
    for ids, each in rows:
        np.add.at(worth, ids, each)
    factors = [np.concatenate([ids for ids in p.factors if ids is not None]) for p in coupling.products]
    left = list(range(len(factors)))
    while left:  # what is merged of merged ones comes after these
        marked = coupling.mark([factors[k] for k in left])
        ready = [k for k in left if not _awaits(coupling, k, marked, factors[k])] or left
        for k in ready:
            product = coupling.products[k]
            for _, ids, _, others in product.axes():
                np.add.at(worth, ids, worth[product.merged].sum(axis=others))
        left = [k for k in left if k not in ready]
    return worth


def _awaits(coupling: Coupling, k: int, marked: np.ndarray, own: Ids) -> bool:
    """Whether the entries of a product are factors of another that is not done."""
    merged = coupling.products[k].merged.ravel()
    return bool(marked[merged].any()) and not bool(np.isin(merged, own).any())
