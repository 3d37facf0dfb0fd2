"""The dense product as fast as this machine can: through oneDNN where torch's own choice, MKL, is slower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.types import Float
from secateur.sparse.calls import fits, looked_into
from secateur.sparse.layers._state import copied_as


def onednn_available() -> bool:
    """Tell whether this torch has oneDNN's linear product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnn(torch.autograd.Function):
    """y = x Wᵀ + b with all three products in oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        # With create_graph=True the gradients are differentiated again: torch's own products leave a graph.
        product: Any = nn.functional.linear if torch.is_grad_enabled() else _product
        flat = grads[0].reshape(-1, weight.shape[0])
        dx = product(flat, weight.t()).view(x.shape) if need_x else None
        dw = product(flat.t(), x.reshape(-1, weight.shape[1]).t()) if need_weight else None
        return dx, dw, flat.sum(0) if need_bias and ctx.has_bias else None


def dense_linear(
    x: Float[Tensor, "*batch columns"],
    weight: Float[Tensor, "rows columns"],
    bias: Float[Tensor, " rows"] | None,
    *,
    onednn: bool,
) -> Float[Tensor, "*batch rows"]:
    """Compute x Wᵀ + b, through oneDNN if `onednn` and if the tensors are what it takes, else through torch."""
    plain = onednn and not looked_into(x) and fits(x, weight, bias) and x.dim() >= 1
    if plain and not torch.is_autocast_enabled("cpu"):
        return _OneDnn.apply(x, weight, bias)  # type: ignore[return-value]
    return nn.functional.linear(x, weight, bias)


class OneDnnLinear(nn.Linear):
    """An `nn.Linear` that multiplies through oneDNN; same parameters, same state_dict."""

    @staticmethod
    def from_dense(linear: nn.Linear) -> OneDnnLinear:
        """Copy a dense layer."""
        return copied_as(OneDnnLinear, linear)

    def forward(self, input: Tensor) -> Tensor:
        return dense_linear(input, self.weight, self.bias, onednn=True)
