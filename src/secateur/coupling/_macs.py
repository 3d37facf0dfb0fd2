"""How many products an operation adds up."""

from __future__ import annotations

import math
from collections.abc import Callable

from secateur.coupling.rules import Op, tensors_in

__all__ = ["macs_of"]


def macs_of(op: Op) -> int:
    """Return the multiplications of a linear layer, a convolution, a matrix product, an attention or a recurrent layer.

    What works entry by entry (normalisation, activations) counts nothing, as is the custom.
    """
    count = _COUNTS.get(op.name)
    return 0 if count is None else count(op)


def _linear(op: Op) -> int:
    return op.outs()[0].numel() * op.tensor("weight").shape[1]


def _convolution(op: Op) -> int:
    weight = op.tensor("weight")
    places = op.tensor("input") if op["transposed"] else op.outs()[0]
    return places.numel() * (weight.numel() // max(1, weight.shape[0]))


def _product(op: Op) -> int:
    return op.outs()[0].numel() * op.tensor("self", "input").shape[-1]


def _added(op: Op) -> int:
    return op.outs()[0].numel() * op.tensor("mat1", "batch1").shape[-1]


def _attention(op: Op) -> int:
    *lead, length, width = op.tensor("query").shape
    value = op.tensor("value")
    return math.prod(lead) * length * value.shape[-2] * (width + value.shape[-1])


def _recurrent(op: Op) -> int:
    x = op.tensor("input", "data")
    return math.prod(x.shape[:-1]) * sum(p.numel() for p in op["params"] if p.ndim == 2)


def _einsum(op: Op) -> int:
    letters: dict[str, int] = {}
    operands = op["equation"].replace(" ", "").partition("->")[0].split(",")
    for text, tensor in zip(operands, tensors_in(op["tensors"]), strict=True):
        if "." in text:
            return op.outs()[0].numel()
        letters.update(zip(text, tensor.shape, strict=True))
    return math.prod(letters.values())


_COUNTS: dict[str, Callable[[Op], int]] = {
    "linear": _linear,
    "convolution": _convolution,
    "matmul": _product,
    "mm": _product,
    "bmm": _product,
    "mv": _product,
    "addmm": _added,
    "baddbmm": _added,
    "_grouped_mm": _product,
    "grouped_mm_fallback": _product,
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "einsum": _einsum,
}
