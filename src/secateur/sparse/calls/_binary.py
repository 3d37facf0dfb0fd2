"""The product of weights and samples that are +1 or −1, a bit each, for one linear layer without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur._base import door
from secateur._base.errors import SecateurError
from secateur._base.types import Float, Int
from secateur.sparse.calls._tensors import rows_apart

_EXACT = 2**24  # summands of ±1 whose sum is exact in float32
WRONG = (
    "a layer of one bit takes inputs that are +1 or −1, and got others. Put gates.BinaryActivation before it, or keep "
    "the dense layer there: sparse.binarised(model, example_inputs) chooses by what it sees."
)


def binary_layer(signs: Int[Tensor, "rows columns"]) -> Any:
    """Return the kernels' view of a layer of +1, −1 and 0 (pruned), or None where there are no kernels."""
    if door.native is None or not signs.is_cpu:
        return None
    flat = signs.reshape(-1).contiguous()
    positive, there = (flag.view(torch.uint8).numpy() for flag in (flat > 0, flat != 0))
    return door.native.BinaryLayer(*signs.shape, positive, there)


def binary_linear(x: Tensor, layer: Any, scales: Tensor, bias: Tensor | None) -> Tensor:
    """Compute scale · (x Wᵀ) + b by the kernels: Σ x w = n − 2·popcount(x xor w), exact.

    Args:
        x: [samples, columns] of +1 and −1, float32 on the CPU, at least one sample.
        layer: the kernels' view.
        scales: [rows] in float32.
        bias: [rows] in float32, or None.

    Raises:
        SecateurError: a number of `x` is neither.
    """
    x = rows_apart(x)
    made = torch.empty((x.shape[0], layer.rows), dtype=torch.float32, device="cpu")
    plus = (0, 0) if bias is None else (bias.data_ptr(), bias.numel())
    right = layer.forward(
        x.data_ptr(), x.stride(0), *x.shape, scales.data_ptr(), scales.numel(), *plus,
        made.data_ptr(), made.numel(), torch.get_num_threads(),
    )  # fmt: skip
    if not right:
        raise SecateurError(WRONG)
    return made


def binary_by_torch(
    x: Tensor, signs: Float[Tensor, "rows columns"], scales: Tensor, bias: Tensor | None
) -> Float[Tensor, "samples rows"]:
    """Compute the same through torch, to the bit: sums are of whole numbers, and exact.

    Raises:
        SecateurError: a number of `x` is neither +1 nor −1.
    """
    if not bool((x.abs() == 1).all()):
        raise SecateurError(WRONG)
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.float32 if x.shape[1] <= _EXACT else torch.float64
        found = (x.to(wide) @ signs.to(wide).t()).float() * scales
    return found if bias is None else found + bias
