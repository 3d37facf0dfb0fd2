"""A tensor that is looked up in a table, and the gradient of the table: the sum over all places of each entry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _LookedUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.entries = len(table)
        return table.index_select(0, codes.flatten()).reshape(codes.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (codes,) = ctx.saved_tensors
        return _Summed.apply(grads[0], codes, ctx.entries), None  # type: ignore[return-value]


class _Summed(torch.autograd.Function):
    """The sum over the places of each entry, whose own gradient is a look-up again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Tensor, entries: int) -> Tensor:
        ctx.save_for_backward(codes)
        # Summed in float64: a value may be shared by a million weights. This is deterministic on a GPU, too.
        total = torch.zeros(entries, dtype=torch.float64, device=values.device)
        return total.index_add_(0, codes.flatten(), values.flatten().double()).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        return looked_up(grads[0], codes), None, None


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """Return `table[codes]`, with ∂L/∂table_k = Σ over the places whose code is k of the gradient there.

    Args:
        table: [entry].
        codes: integers of any shape.
    """
    return _LookedUp.apply(table, codes)  # type: ignore[no-any-return]
