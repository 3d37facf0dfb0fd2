"""The product of weights and samples that are rounded to eight bits, for one linear layer without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur._base import door
from secateur._base.types import Float, Int
from secateur.sparse.calls._tensors import rows_apart
from secateur.sparse.plans import LayerPlan

MOST = 127  # the largest magnitude
INPUTS = 2**31 // (MOST * 255)  # of a layer whose sums are certain to fit 32 bits
_SMALLEST = 1e-36  # rows whose magnitudes are all below it count as 0
_EXACT = 2**24 // MOST**2  # products of bytes whose sum is exact in float32


def eight_bits(rows: Float[Tensor, "rows columns"]) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"]]:
    """Round each row to whole multiples of its scale, max |row| / 127, to the nearest, ties to even.

    Returns:
        The multiples, from −127 to 127, and the scales. A row that is not finite has a scale of NaN; one whose
        magnitudes are all below 1e-36 has a scale of 0.

    >>> whole, scales = eight_bits(torch.tensor([[1.0, -254.0], [0.0, 0.0]]))
    >>> whole.tolist(), scales.tolist()
    ([[0.0, -127.0], [0.0, 0.0]], [2.0, 0.0])
    """
    most = rows.abs().amax(1)
    finite, full = most.isfinite(), torch.full_like(most, MOST)
    some = finite & (most >= _SMALLEST)
    # Tensors, not numbers: torch divides a number by a tensor through the reciprocal, which rounds twice.
    factor, zero = torch.where(some, full / most, 0.0), torch.zeros((), dtype=rows.dtype, device=rows.device)
    scales = torch.where(finite, torch.where(some, most / full, 0.0), torch.nan)
    return (torch.where(some[:, None], rows, zero) * factor[:, None]).round(), scales


def int8_layer(plan: LayerPlan, values: Int[Tensor, " kept"], scales: Float[Tensor, " rows"]) -> Any:
    """Return the kernels' view of a layer, or None where there are no such kernels."""
    if door.native is None or not door.native.int8_set() or not values.is_cpu:
        return None
    places = plan.positions.numpy()
    return door.native.Int8Layer(plan.rows, plan.columns, places, values.numpy(), scales.float().numpy())


def int8_linear(x: Tensor, layer: Any, bias: Tensor | None, out: torch.dtype) -> Tensor:
    """Compute x Wᵀ + b by the kernels.

    Args:
        x: [samples, columns], float32 or bfloat16 on the CPU, at least one sample.
        layer: the kernels' view.
        bias: [rows] in float32, or None.
        out: float32 or bfloat16.
    """
    x = rows_apart(x)
    made = torch.empty((x.shape[0], layer.rows), dtype=out, device="cpu")
    plus = (0, 0) if bias is None else (bias.data_ptr(), bias.numel())
    layer.forward(
        x.data_ptr(), x.stride(0), *x.shape, x.dtype is torch.bfloat16, *plus,
        made.data_ptr(), made.numel(), out is torch.bfloat16, torch.get_num_threads(),
    )  # fmt: skip
    return made


def int8_by_torch(
    x: Tensor, whole: Float[Tensor, "rows columns"], scales: Tensor, bias: Tensor | None, out: torch.dtype
) -> Tensor:
    """Compute the same through torch, to the bit: sums are of whole numbers, and exact.

    Args:
        x: [samples, columns].
        whole: the weights as multiples of their rows' scales.
        scales: [rows].
        bias: [rows], or None.
        out: the type of the result.
    """
    samples, of = eight_bits(x.float())
    total = torch.zeros((x.shape[0], whole.shape[0]), dtype=torch.int32, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        for begin in range(0, whole.shape[1], _EXACT):
            part = slice(begin, begin + _EXACT)
            total += (samples[:, part] @ whole[:, part].t()).to(torch.int32)
    found = total.float() * (scales * of[:, None])
    return (found if bias is None else found + bias).to(out)
