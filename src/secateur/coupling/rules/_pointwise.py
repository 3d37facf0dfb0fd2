"""The same place in every argument and in the result; and tensors made of nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import POINTWISE, rule

__all__ = ["broadcast"]


def broadcast(op: Op, tensors: Sequence[Tensor], shape: Sequence[int]) -> list[Row]:
    """Unite dimension by dimension, aligned on the right; size 1 is neutral, a fixed dimension freezes.

    A fixed tensor of zeros or of an input still holds a value at every index: nothing of the other may go.
    """
    found: list[Row] = [None] * len(shape)
    for d in range(-len(shape), 0):
        seen = [(t, op.book.rows(t)[d]) for t in tensors if t.ndim >= -d and t.shape[d] == shape[d] > 1]
        rows = [ids for _, ids in seen]
        for ids in rows[1:]:
            op.meet(rows[0], ids)
        found[d] = rows[0] if rows and all(ids is not None for ids in rows) else None
    return found


@rule(f"{POINTWISE} where masked_fill lerp addcmul addcdiv copy clamp")
def pointwise(op: Op) -> list[Row]:
    """Unite the same places of all arguments."""
    tensors = _parameters_last(op)
    shape = op.outs()[0].shape
    for tensor in tensors[1:]:
        for d in range(-min(tensor.ndim, tensors[0].ndim), 0):
            if tensor.shape[d] == tensors[0].shape[d] == shape[d] and (ids := op.book.rows(tensors[0])[d]) is not None:
                op.same(tensor, d, ids)
    return broadcast(op, tensors, shape)


def _parameters_last(op: Op) -> list[Tensor]:
    """All tensors, those first whose labels are known: a parameter seen for the first time takes over labels."""
    return sorted(op.tensors(), key=lambda tensor: not op.book.is_known(tensor))


@rule(
    "clone contiguous to _to_copy detach alias type_as dropout alpha_dropout feature_dropout zeros_like ones_like "
    "empty_like full_like rand_like randn_like lift_fresh fill zero hardtanh float leaky_relu hardswish hardsigmoid "
    "silu mish elu relu6 selu celu softplus logical_not bernoulli _conj"
)
def unary(op: Op) -> list[Row]:
    """Pass everything on."""
    return op.rows(op.tensors()[0])


@rule("zeros ones empty full new_zeros new_ones new_empty new_full")
def made(op: Op) -> list[Row]:
    """Give new labels: whatever such a tensor meets tells how much of it is needed."""
    shape = op.outs()[0].shape
    for ids in op.rows(op.tensors()[0]) if op.tensors() else ():
        op.take(ids)  # only its type is looked at
    return op.sized([op.book.labels.fresh(n) if n > 1 else None for n in shape], shape)


@rule("arange rand randn randint randperm eye linspace scalar_tensor tensor triu_indices tril_indices")
def fixed(op: Op) -> list[Row]:
    """Values that belong to their places: nothing of them may go."""
    return [None] * op.outs()[0].ndim
