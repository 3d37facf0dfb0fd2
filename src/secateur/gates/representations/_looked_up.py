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
        return table[codes]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (codes,) = ctx.saved_tensors
        (grad,) = grads
        # Summed in float64: a value may be shared by a million weights.
        total = torch.bincount(codes.flatten(), weights=grad.flatten().double(), minlength=ctx.entries)
        return total.to(grad.dtype), None


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """Return `table[codes]`, with ∂L/∂table_k = Σ over the places whose code is k of the gradient there.

    Args:
        table: [entry].
        codes: integers of any shape.
    """
    return _LookedUp.apply(table, codes)  # type: ignore[no-any-return]
