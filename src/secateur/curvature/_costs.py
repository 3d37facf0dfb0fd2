"""What a whole unit costs, by the trace of the model that it is in: numbers to divide importance by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secateur.coupling import Coupling, Row

__all__ = ["macs_saved", "memory_saved"]


def memory_saved(coupling: Coupling) -> np.ndarray:
    """How many numbers of activation go with each class: its places in the outputs of all layers, for the example."""
    return _priced(coupling, lambda macs, shape: float(np.prod(shape)), inputs=False)


def macs_saved(coupling: Coupling) -> np.ndarray:
    """How many multiplications go with each class: its share of the layers that make it, and of those that read it."""
    return _priced(coupling, lambda macs, shape: float(macs), inputs=True)


def _priced(coupling: Coupling, price: Callable[[int, Sequence[int]], float], *, inputs: bool) -> np.ndarray:
    found = np.zeros(coupling.count)
    for step in coupling.steps:
        if not step.macs or not step.outs:
            continue
        whole = price(step.macs, step.outs[0][0])
        for shape, rows in (step.outs[0], *(step.ins[:1] if inputs else ())):
            found += _shares(coupling.count, shape, rows) * whole
    paid = found[found > 0]
    return np.where(found > 0, found, paid.min() if len(paid) else 1.0)


def _shares(count: int, shape: Sequence[int], rows: Sequence[Row]) -> np.ndarray:
    """The share of a tensor that each class has: of the dimension that it has most of."""
    found = np.zeros(count)
    for size, ids in zip(shape, rows, strict=True):
        if ids is not None and size:
            found = np.maximum(found, np.bincount(ids, minlength=count) / size)
    return found
