"""The same entries in another shape or order."""

from __future__ import annotations

import math

import numpy as np

from secateur.coupling.labels import Ids, Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import rule


@rule("view reshape _unsafe_view flatten unflatten view_as reshape_as")
def reshape(op: Op) -> list[Row]:
    """Regroup the shortest runs of old and new dimensions with equal products.

    `[b, c, h, w] -> [b, (c h w)]` is the runs b -> b and c, h, w -> chw.
    """
    source, target, rows = op.tensor("self").shape, op.outs()[0].shape, op.rows("self")
    if math.prod(target) == 0:
        return [None] * len(target)
    found: list[Row] = [None] * len(target)
    for old, new in _runs(list(source), list(target)):
        if len(old) == len(new) == 1:
            found[new[0]] = rows[old[0]]
        else:
            made = op.regroup([(source[k], rows[k]) for k in old], [target[k] for k in new])
            for k, ids in zip(new, made, strict=True):
                found[k] = ids
    return op.sized(found, target)


def _runs(source: list[int], target: list[int]) -> list[tuple[list[int], list[int]]]:
    """Pair shortest runs of dimensions of equal product; those of size 1 are in none."""
    old = [k for k, n in enumerate(source) if n != 1]
    new = [k for k, n in enumerate(target) if n != 1]
    found = []
    while old and new:
        i, j = [old.pop(0)], [new.pop(0)]
        here, there = source[i[0]], target[j[0]]
        while here != there:
            if here < there:
                i.append(old.pop(0))
                here *= source[i[-1]]
            else:
                j.append(new.pop(0))
                there *= target[j[-1]]
        found.append((i, j))
    return found


@rule("t numpy_T mT adjoint transpose swapaxes swapdims permute movedim")
def permute(op: Op) -> list[Row]:
    """Move the rows."""
    rows = op.rows("self")
    if op["dims"] is not None:
        return [rows[d] for d in op["dims"]]
    if len(rows) < 2:
        return rows
    one = next((op[name] for name in ("dim0", "axis0") if op[name] is not None), -1)
    other = next((op[name] for name in ("dim1", "axis1") if op[name] is not None), -2)
    if op.name == "numpy_T":
        return rows[::-1]
    rows[one], rows[other] = rows[other], rows[one]
    return rows


@rule("unsqueeze squeeze")
def squeeze(op: Op) -> list[Row]:
    """Add or drop dimensions of size 1."""
    x, rows, dims = op.tensor("self"), op.rows("self"), op["dim"]
    if op.name.startswith("un"):
        rows.insert(dims % op.outs()[0].ndim, None)
        return rows
    dims = range(x.ndim) if dims is None else [d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)]
    return [ids for d, ids in enumerate(rows) if not (d in dims and x.shape[d] == 1)]


@rule("expand expand_as broadcast_to")
def expand(op: Op) -> list[Row]:
    """New dimensions are fixed; what they are sized by may still be a need."""
    shape, rows = op.outs()[0].shape, op.rows("self")
    if isinstance(op["other"], op.tensor("self").__class__):
        op.take(*op.rows("other"))
        for ids, other, n in zip(_led(rows, len(shape)), op.rows("other"), shape, strict=True):
            if ids is None and other is not None and n > 1:
                op.freeze(other, "sizes an expanded dimension")
    return op.sized(_led(rows, len(shape)), shape)


def _led(rows: list[Row], rank: int) -> list[Row]:
    return [*[None] * (rank - len(rows)), *rows]


@rule("repeat")
def repeat(op: Op) -> list[Row]:
    """Tile."""
    rows, times = op.rows("self"), op["repeats"]
    op.take(*rows)
    return [_tiled(ids, n) for ids, n in zip(_led(rows, len(times)), times, strict=True)]


def _tiled(ids: Row, times: int) -> Row:
    return ids if ids is None or times == 1 else np.tile(ids, times)


@rule("flip")
def flip(op: Op) -> list[Row]:
    """Reverse."""
    rows, turned = op.rows("self"), {d % op.outs()[0].ndim for d in op["dims"]}
    op.take(*rows)
    return [_reversed(ids) if d in turned else ids for d, ids in enumerate(rows)]


def _reversed(ids: Row) -> Row:
    reverse: Ids | None = None if ids is None else ids[::-1].copy()
    return reverse
