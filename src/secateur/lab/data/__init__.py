"""Data sets as tensors: found on disk and checked, standardised, split, batched by step number.

data = load("mnist", seed=3)
x, y = batch_at(data.train, 100, seed=3, step=7)  # the same batch in every process, at any time
"""

from __future__ import annotations

from secateur.lab.data._augment import Augment, flip, flip_and_shift, nudge, shift
from secateur.lab.data._catalogue import catalogue, load, look_for, whereabouts
from secateur.lab.data._dataset import Dataset, Examples, first, shuffle_labels, split
from secateur.lab.data._find import DataError, Source
from secateur.lab.data._get import ADDRESSES, get
from secateur.lab.data._own import admit, admitted
from secateur.lab.data._stream import batch_at, batches, in_order, indices_at, order, rows, steps_in

__all__ = [
    "ADDRESSES",
    "Augment",
    "DataError",
    "Dataset",
    "Examples",
    "Source",
    "admit",
    "admitted",
    "batch_at",
    "batches",
    "catalogue",
    "first",
    "flip",
    "flip_and_shift",
    "get",
    "in_order",
    "indices_at",
    "load",
    "look_for",
    "nudge",
    "order",
    "rows",
    "shift",
    "shuffle_labels",
    "split",
    "steps_in",
    "whereabouts",
]
