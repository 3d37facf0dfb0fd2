"""Parts of dimensions, and dimensions of parts."""

from __future__ import annotations

import numpy as np

from secateur.coupling.labels import Ids, Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._pointwise import broadcast
from secateur.coupling.rules._registry import rule


@rule("slice")
def slice_(op: Op) -> list[Row]:
    """Take a part. Where it begins is counted, and checked when the cut model runs."""
    rows, dim, step = op.rows("self"), op["dim"] or 0, op["step"] or 1
    ids = rows[dim]
    if ids is None:
        return rows
    op.take(ids)
    if step > 1:
        _keep_step(op, ids, step)
    begin, end, _ = slice(op["start"], op["end"]).indices(len(ids))
    rows[dim] = ids[begin:end:step]
    return rows


def _keep_step(op: Op, ids: Ids, step: int) -> None:
    """Every `step`-th index is the same after a cut only where whole steps go."""
    whole = ids[: len(ids) // step * step].reshape(-1, step)
    for k in range(1, step):
        op.meet(whole[:, 0], whole[:, k])
    if whole.size < len(ids):
        op.freeze(ids[whole.size :], "an unfinished step")


@rule("select unbind")
def select(op: Op) -> list[Row] | list[list[Row]]:
    """An index is a number: the dimension stays."""
    rows = op.rows("self")
    op.freeze(rows.pop((op["dim"] or 0) % op.tensor("self").ndim), "an index into it is a number")
    return rows if op.name == "select" else op.several(rows)


@rule("chunk split split_with_sizes unsafe_split unsafe_split_with_sizes unsafe_chunk tensor_split")
def split(op: Op) -> list[list[Row]]:
    """Pieces. Sizes given one by one are needs; one size for all means equal counts, not the same places."""
    rows, dim = op.rows(op.tensor("self", "input")), (op["dim"] or 0) % op.tensor("self", "input").ndim
    sizes, ids = [out.shape[dim] for out in op.outs()], rows[dim]
    if ids is None:
        return op.several(rows)
    op.take(ids)
    parts = np.split(ids, np.cumsum(sizes)[:-1])
    if op.name.endswith("with_sizes") or isinstance(op["split_size"], list | tuple):
        for size, part in zip(op.sizes, parts, strict=False):
            op.need(size, part, len(part))
    elif len(set(sizes)) == 1:
        op.keep_equal(parts)
        if op.name.endswith("split") and op.sizes:
            op.need(op.sizes[0], parts[0], sizes[0])
    else:
        op.freeze(ids, "unequal parts of one size")
    return [[part if k == dim else row for k, row in enumerate(rows)] for part in parts]


@rule("cat concat concatenate")
def cat(op: Op) -> list[Row]:
    """Join the rows of one dimension, unite those of the others. A part of fixed size stays."""
    rank = op.outs()[0].ndim
    tensors = [t for t in op.tensors() if not (t.ndim == 1 and t.numel() == 0 and rank > 1)]
    dim = (op["dim"] or 0) % rank
    found: list[Row] = [None] * rank
    rows = [op.rows(tensor) for tensor in tensors]
    for k in range(rank):
        here = [each[k] for each in rows]
        if k == dim:
            found[k] = _joined(op, here, [tensor.shape[k] for tensor in tensors])
            continue
        if all(ids is None for ids in here):
            continue
        for ids in here[1:]:
            op.meet(here[0], ids)
        found[k] = None if any(ids is None for ids in here) else here[0]
    return found


def _joined(op: Op, rows: list[Row], sizes: list[int]) -> Row:
    op.take(*rows)
    if all(ids is None for ids in rows):
        return None
    return np.concatenate(
        [op.frozen(n, "a part of fixed size") if ids is None else ids for ids, n in zip(rows, sizes, strict=True)]
    )


@rule("stack")
def stack(op: Op) -> list[Row]:
    """Unite all; the new dimension is fixed."""
    tensors = op.tensors()
    rows = broadcast(op, tensors, tensors[0].shape)
    rows.insert((op["dim"] or 0) % op.outs()[0].ndim, None)
    return rows


@rule("constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d")
def pad(op: Op) -> list[Row]:
    """Constants are frozen parts; what mirrors or repeats its border works along it."""
    amounts = op["pad"] if op["pad"] is not None else op["padding"]
    rows, rank = op.rows("self"), op.outs()[0].ndim
    for k in range(len(amounts) // 2):
        dim, (before, after) = rank - 1 - k, amounts[2 * k : 2 * k + 2]
        ids = rows[dim]
        if ids is None or not (before or after):
            continue
        if before < 0 or after < 0 or op.name != "constant_pad_nd":
            op.freeze(ids, "is padded by its own values, or cut")
            rows[dim] = None
        else:
            op.take(ids)
            rows[dim] = np.concatenate([op.frozen(before, "padding"), ids, op.frozen(after, "padding")])
    return rows
