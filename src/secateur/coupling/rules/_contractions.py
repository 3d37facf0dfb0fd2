"""Products that sum over a dimension: an index may go where it brings nothing to the sum.

In the model of full size a unit that is to go has zeros in what makes it and in what reads it, so its term is zero.
"""

from __future__ import annotations

from torch import Tensor

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import rule

__all__ = ["contracted"]

_SUMMED = "is summed with a dimension of fixed size"
_READS = "is read by filters of fixed size"


@rule("linear")
def linear(op: Op) -> list[Row]:
    """y[..., o] = sum_i x[..., i] w[o, i] + b[o]."""
    x, weight = op.rows("input"), op.tensor("weight")
    op.same(weight, 1, x[-1], reads=True, why=_SUMMED)
    made = op.rows(weight)[0]
    op.same(op["bias"], 0, made)
    return [*x[:-1], made]


@rule("matmul mm bmm mv dot")
def matmul(op: Op) -> list[Row]:
    """z[..., i, k] = sum_j x[..., i, j] y[..., j, k]; leading dimensions broadcast."""
    return contracted(op, op.tensor("self", "input"), op.tensor("other", "mat2", "vec", "tensor"))


@rule("addmm baddbmm addbmm addmv")
def addmm(op: Op) -> list[Row]:
    """A product, and what is added to it."""
    rows = contracted(op, op.tensor("mat1", "batch1", "mat"), op.tensor("mat2", "batch2", "vec"))
    added = op.tensor("self")
    for d in range(-added.ndim, 0):
        op.same(added, d, rows[d])
    return rows


@rule("_grouped_mm grouped_mm_fallback")
def grouped(op: Op) -> list[Row]:
    """z[t, k] = sum_j x[t, j] y[expert of t, j, k]: experts stay, since a router counts them."""
    x, y = op.tensor("self", "input"), op.tensor("mat2", "weight")
    if x.ndim != 2 or y.ndim != 3:
        for ids in (*op.rows(x), *op.rows(y)):
            op.freeze(ids, "products of this shape are not known")
        return [None] * op.outs()[0].ndim
    op.same(y, 1, op.rows(x)[1], reads=True, why=_SUMMED)
    op.freeze(op.rows(y)[0], "is counted by a router")
    return [op.rows(x)[0], op.rows(y)[2]]


def contracted(op: Op, x: Tensor, y: Tensor) -> list[Row]:
    """Return the rows of `x @ y`."""
    middle = -2 if y.ndim > 1 else -1
    if op.book.is_known(y) or not op.book.is_known(x):
        op.same(x, -1, op.book.rows(y)[middle], reads=True, why=_SUMMED)
    else:
        op.same(y, middle, op.book.rows(x)[-1], reads=True, why=_SUMMED)
    left, right = op.rows(x), op.rows(y)
    tail = [left[-2]] * (x.ndim > 1) + [right[-1]] * (y.ndim > 1)
    rank = op.outs()[0].ndim
    lead: list[Row] = [None] * (rank - len(tail))
    for d in range(-len(lead), 0):
        shape = op.outs()[0].shape[d - len(tail)]
        seen = [r[d - 2] for t, r in ((x, left), (y, right)) if t.ndim >= 2 - d and t.shape[d - 2] == shape > 1]
        lead[d] = None if not seen else seen[0] if len(seen) == 1 else op.meet(seen[0], seen[1])
    return [*lead, *tail]


@rule("convolution")
def convolution(op: Op) -> list[Row]:
    """Kernel and space stay; channels go by the rule of their kind."""
    x = op.rows("input")
    for ids in x[2:]:
        op.freeze(ids, "a kernel moves over it")
    if op["groups"] == 1:
        channels = _plain(op, x[1])
    else:
        channels = _transposed_groups(op, x[1]) if op["transposed"] else _groups(op, x[1])
    for ids in op.rows("weight")[2:]:
        op.freeze(ids, "a position of a kernel is a number")
    op.same(op["bias"], 0, channels)
    return [x[0], channels, *[None] * (op.outs()[0].ndim - 2)]


def _plain(op: Op, inputs: Row) -> Row:
    """Weights are `[out, in, ...]`, transposed ones `[in, out, ...]`."""
    read, make = (0, 1) if op["transposed"] else (1, 0)
    op.same(op.tensor("weight"), read, inputs, reads=True, why=_READS)
    return op.rows("weight")[make]


def _groups(op: Op, inputs: Row) -> Row:
    """Inputs are (group, i), outputs (group, o), weights `[(group o), i, ...]`: groups may go, or places in all."""
    weight, groups = op.tensor("weight"), op["groups"]
    read, made = op.tensor("input").shape[1], op.outs()[0].shape[1]
    if read == groups == made:  # depthwise: a channel is a group
        op.same(weight, 0, inputs, why=_READS)
        op.attribute("groups", op.rows(weight)[0])
        return op.rows(weight)[0]
    group, inner = op.regroup([(read, inputs)], [groups, read // groups])
    op.same(weight, 1, inner, reads=True, why=_READS)
    channels = op.rows(weight)[0]
    own, _ = op.regroup([(made, channels)], [groups, made // groups])
    op.attribute("groups", op.meet(group, own))
    return channels


def _transposed_groups(op: Op, inputs: Row) -> Row:
    """Inputs and the weight's first dimension are (group, i), its second is o, outputs are (group, o)."""
    weight, groups = op.tensor("weight"), op["groups"]
    read, made = op.tensor("input").shape[1], op.outs()[0].shape[1]
    op.same(weight, 0, inputs, reads=True, why=_READS)
    group, _ = op.regroup([(read, op.rows(weight)[0])], [groups, read // groups])
    (channels,) = op.regroup([(groups, group), (made // groups, op.rows(weight)[1])], [made])
    op.attribute("groups", group)
    return channels
