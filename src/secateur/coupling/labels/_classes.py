"""Classes of labels that were united, all at once."""

from __future__ import annotations

import numpy as np

__all__ = ["components"]


def components(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the smallest member of everyone's class, where `one[i]` and `other[i]` are of one class for every i.

    Hooks the larger root to the smaller and halves the paths until nothing moves. Hooking takes the minimum of all that
    ask: a plain assignment would unite one of many at a time, which is quadratic where many meet one.

    Args:
        count: how many labels there are.
        one: labels.
        other: as many labels.

    >>> components(5, np.array([0, 4]), np.array([2, 2])).tolist()
    [0, 1, 0, 3, 0]
    """
    parent = np.arange(count, dtype=np.int32)
    while one.size:
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(jumped := parent[parent], parent):
            parent = jumped
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return parent
