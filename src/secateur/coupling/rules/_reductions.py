"""What works along dimensions: the dimensions stay."""

from __future__ import annotations

from typing import Any

import torch

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._pointwise import pointwise
from secateur.coupling.rules._registry import rule


def _dims(given: Any, rank: int) -> set[int]:
    """The dimensions that an argument names; none named are all."""
    if given is None or given == []:
        return set(range(rank))
    return {d % rank for d in ([given] if isinstance(given, int) else given)} if rank else set()


@rule(
    "softmax _softmax log_softmax _log_softmax cumsum cumprod sort argsort roll triu tril logcumsumexp _safe_softmax "
    "cummax"
)
def along(op: Op) -> list[Row] | list[list[Row]]:
    """Dimensions keep their places; those worked along stay."""
    rows, rank = op.rows("self"), op.tensor("self").ndim
    worked = {rank - 1, rank - 2} if op.name.startswith("tri") else _dims(_given(op), rank)
    if "softmax" in op.name and rank > 2 and worked == {rank - 1}:
        op.book.lead(rows[:-2])
    for d in worked:
        op.freeze(rows[d], "works along it")
        rows[d] = None
    return rows if isinstance(op.out, torch.Tensor) else op.several(rows)


def _given(op: Op) -> Any:
    return op["dims"] if op["dims"] is not None else op["dim"]


@rule(
    "sum mean amax amin max min var std var_mean std_mean norm linalg_vector_norm prod argmax argmin any all logsumexp "
    "topk nansum median aminmax kthvalue"
)
def reduce(op: Op) -> list[Row] | list[list[Row]]:
    """Dimensions that are summed over stay, unless it is the mean of a root mean square."""
    if op["other"] is not None:
        return pointwise(op)
    rows = op.rows(op.tensor("self", "input"))
    worked = _dims(op["dim"], len(rows))
    for d in worked:
        if not (op.name == "mean" and op.rescale(rows[d])):
            op.freeze(rows[d], "is summed over")
    keep = op["keepdim"] or op.name == "topk"
    rest = [None if d in worked else ids for d, ids in enumerate(rows) if keep or d not in worked]
    return rest if isinstance(op.out, torch.Tensor) else op.several(rest)
