"""The sparse product in bfloat16 with its gradients, for one linear layer."""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from secateur._base import door
from secateur.sparse.calls._limits import first_order
from secateur.sparse.calls._tensors import rows_apart
from secateur.sparse.plans import LayerPlan, half_of


class Rounded:
    """A layer's values rounded to bfloat16 and packed, for the kernels; made again when the values have changed.

    An instance belongs to one module. What it holds can be made anew, so copies and pickles leave it behind.
    """

    def __init__(self) -> None:
        self._changing = Lock()
        self._made: tuple[object, Tensor, Tensor] | None = None  # made of what, the result, and what it was made of

    def of(self, plan: LayerPlan, values: Tensor, blocks: bool | None = None) -> Tensor:
        """Return the rounded values of a plan, for the kernels that `half_of` names."""
        half = half_of(plan, blocks=blocks)
        key = (id(half), values.data_ptr(), None if values.is_inference() else values._version, values.dtype)
        with self._changing:
            if self._made is not None and self._made[0] == key and not values.is_inference():
                return self._made[1]
            # Never over the old ones: another thread may be multiplying by them. Given up first, so that memory which
            # nobody uses is taken again.
            self._made = None
            packed = torch.empty(half.layer.packed, dtype=torch.bfloat16, device="cpu")
            source = half.sorted(values)
            half.layer.round_values(*_place(source), *_place(packed), torch.get_num_threads())
            self._made = (key, packed, values.detach())  # held, so that nothing else comes to lie at its address
            return packed


def half_fits(x: Tensor, values: Tensor, bias: Tensor | None) -> bool:
    """Tell whether the bfloat16 kernels take these: float32 or bfloat16 on the CPU, and at least one sample."""
    kinds = (torch.float32, torch.bfloat16)
    others = (values,) if bias is None else (values, bias)
    right = all([t.dtype in kinds and t.is_cpu for t in (x, *others)])
    return door.native is not None and right and x.layout is torch.strided and x.numel() > 0


def half_linear(
    x: Tensor,
    plan: LayerPlan,
    values: Tensor,
    bias: Tensor | None,
    rounded: Rounded,
    blocks: bool | None = None,
) -> Tensor:
    """Compute x Wᵀ + b in bfloat16, differentiably.

    x and W are rounded to the nearest bfloat16, ties to even (numbers below 1.2e-38 may count as zero); products are
    summed in float32, the bias is added there, and the sum is rounded once more. Gradients likewise: dx = dy W, and
    dW = dyᵀ x at the surviving weights, which is float32 where the values are.

    Args:
        x: [..., columns], for which `half_fits` holds.
        plan: where the weights are.
        values: [kept], float32 masters or bfloat16.
        bias: [rows], or None.
        rounded: the rounded values of the module that calls.
        blocks: which kernels multiply weights that are whole blocks of 64 outputs × 2 inputs: those for blocks, or
            those for single weights; None: those in whose order the values are stored.

    Returns:
        [..., rows], contiguous, in bfloat16.
    """
    if torch.compiler.is_compiling():
        return _uncompiled(x, plan, values, bias, rounded, blocks)
    return _half_linear(x, plan, values, bias, rounded, blocks)


def _half_linear(
    x: Tensor, plan: LayerPlan, values: Tensor, bias: Tensor | None, rounded: Rounded, blocks: bool | None
) -> Tensor:
    rows = x if x.dim() == 2 else x.reshape(-1, plan.columns)
    inputs = (x, values) if bias is None else (x, values, bias)
    if torch.is_grad_enabled() and any([t.requires_grad for t in inputs]):
        y: Any = _HalfLinear.apply(rows, values, bias, plan, rounded, blocks)
    else:
        y = _forward(rows, plan, values, bias, rounded, blocks)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], plan.rows)


# `torch.compile` cannot look into the kernels: it breaks its graph here.
_uncompiled = _disable_dynamo(_half_linear)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype is torch.bfloat16


def _forward(
    x: Tensor, plan: LayerPlan, values: Tensor, bias: Tensor | None, rounded: Rounded, blocks: bool | None
) -> Tensor:
    x, packed = rows_apart(x.detach()), rounded.of(plan, values, blocks)
    out = torch.empty((x.shape[0], plan.rows), dtype=torch.bfloat16, device="cpu")
    added = None if bias is None else bias.detach().float().contiguous()
    plus = (0, 0) if added is None else _place(added)
    half_of(plan, blocks=blocks).layer.forward(
        *_place(packed), x.data_ptr(), x.stride(0), *x.shape, _is_half(x), *plus,
        *_place(out), True, torch.get_num_threads(),
    )  # fmt: skip
    return out


class _HalfLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        plan: LayerPlan,
        rounded: Rounded,
        blocks: bool | None,
    ) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.plan, ctx.rounded, ctx.bias, ctx.blocks = plan, rounded, None if bias is None else bias.dtype, blocks
        return _forward(x, plan, values, bias, rounded, blocks)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, values = ctx.saved_tensors
        plan: LayerPlan = ctx.plan
        need_x, need_values, need_bias, *_ = ctx.needs_input_grad
        dy, x = rows_apart(grads[0]), rows_apart(x)
        packed = ctx.rounded.of(plan, values, ctx.blocks) if need_x else None
        dx = None if packed is None else _input_gradient(dy, x.dtype, plan, packed, ctx.blocks)
        dvalues = _weight_gradient(x, dy, plan, ctx.blocks).to(values.dtype) if need_values else None
        dbias = dy.sum(0, dtype=torch.float32).to(ctx.bias) if need_bias and ctx.bias else None
        return dx, dvalues, dbias, None, None, None


def _input_gradient(dy: Tensor, dtype: torch.dtype, plan: LayerPlan, packed: Tensor, blocks: bool | None) -> Tensor:
    dx = torch.empty((dy.shape[0], plan.columns), dtype=dtype, device="cpu")
    half_of(plan, blocks=blocks).layer.input_gradient(
        *_place(packed), dy.data_ptr(), dy.stride(0), *dy.shape, _is_half(dy), *_place(dx), _is_half(dx),
        torch.get_num_threads(),
    )  # fmt: skip
    return dx


def _weight_gradient(x: Tensor, dy: Tensor, plan: LayerPlan, blocks: bool | None) -> Tensor:
    half = half_of(plan, blocks=blocks)
    found = torch.empty(plan.kept, dtype=torch.float32, device="cpu")
    half.layer.weight_gradient(
        x.data_ptr(), x.stride(0), _is_half(x), dy.data_ptr(), dy.stride(0), _is_half(dy), x.shape[0],
        *_place(found), torch.get_num_threads(),
    )  # fmt: skip
    return half.unsorted(found)
