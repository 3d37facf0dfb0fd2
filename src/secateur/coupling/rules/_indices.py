"""Places given by numbers: the dimension they point into stays."""

from __future__ import annotations

import numpy as np
import torch

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import rule

_NUMBERS = "indices into it are numbers"


@rule("embedding")
def embedding(op: Op) -> list[Row]:
    """The vocabulary stays, the width passes on."""
    rows = op.rows("weight")
    op.freeze(rows[0], "tokens are numbers")
    op.book.role(op.tensor("weight"), 1, reads=False)
    return [*op.rows("indices"), rows[1]]


@rule("index_select")
def index_select(op: Op) -> list[Row]:
    """Other dimensions pass on."""
    rows, dim = op.rows("self"), op["dim"] % op.outs()[0].ndim
    op.freeze(rows[dim], _NUMBERS)
    rows[dim] = None
    return rows


@rule("gather scatter take_along_dim scatter_add index_add index_fill scatter_reduce index_copy masked_select nonzero")
def gather(op: Op) -> list[Row] | list[list[Row]]:
    """Everything stays."""
    for tensor in op.tensors():
        for ids in op.rows(tensor):
            op.freeze(ids, _NUMBERS)
    rows: list[list[Row]] = [[None] * out.ndim for out in op.outs()]
    return rows[0] if isinstance(op.out, torch.Tensor) else rows


@rule("repeat_interleave")
def repeat_interleave(op: Op) -> list[Row] | list[list[Row]]:
    """Repeat each label where one number says how often."""
    if not isinstance(op["repeats"], int) or op["dim"] is None:
        return gather(op)
    rows, dim = op.rows("self"), op["dim"] % op.outs()[0].ndim
    op.take(rows[dim])
    ids = rows[dim]
    rows[dim] = None if ids is None else np.repeat(ids, op["repeats"])
    return rows


@rule("index")
def index(op: Op) -> list[Row]:
    """Indexed dimensions stay, the others pass on around them; a mask, or indices that stand apart, freeze all."""
    rows, given = op.rows("self"), op["indices"]
    at = [d for d, each in enumerate(given) if each is not None]
    apart = at[-1] - at[0] != len(at) - 1 or any(given[d].dtype == torch.bool for d in at)
    for d in range(len(rows)) if apart else at:
        op.freeze(rows[d], _NUMBERS)
    for d in at:
        for ids in op.rows(given[d]):
            op.freeze(ids, "are indices")
    rank = op.outs()[0].ndim
    if apart:
        return [None] * rank
    return [*rows[: at[0]], *[None] * (rank - len(rows) + len(at)), *rows[at[-1] + 1 :]]
