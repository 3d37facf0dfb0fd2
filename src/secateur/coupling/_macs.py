"""How many products an operation adds up."""

from __future__ import annotations

import math
from collections import Counter
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


def _bilinear(op: Op) -> int:
    return op.outs()[0].numel() * math.prod(op.tensor("i2").shape[-2:])


def _einsum(op: Op) -> int:
    """Pairs are contracted from left to right; a dimension goes as soon as nothing behind asks for it."""
    tensors = list(tensors_in(op["tensors"]))
    left, _, right = op["equation"].replace(" ", "").partition("->")
    terms = [_dimensions(text, tensor.ndim) for text, tensor in zip(left.split(","), tensors, strict=True)]
    sizes: dict[object, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for each, n in zip(term, tensor.shape, strict=True):
            sizes[each] = max(n, sizes.get(each, 1))  # a dimension of one is stretched
    counts = Counter(each for term in terms for each in term)
    if "->" in op["equation"]:
        kept = set(_dimensions(right, op.outs()[0].ndim))
    else:
        kept = {each for each in counts if counts[each] == 1 or isinstance(each, int)}
    total, done = 0, set(terms[0])
    for k, term in enumerate(terms[1:], 1):
        done |= set(term)
        total += math.prod(sizes[each] for each in done)
        done &= kept.union(*terms[k + 1 :])
    return total


def _dimensions(text: str, ndim: int) -> list[str | int]:
    """The letters of a term; what an ellipsis stands for is counted from its last dimension, as it is broadcast."""
    before, dots, after = text.partition("...")
    hidden = range(ndim - len(before) - len(after)) if dots else range(0)
    return [*before, *(-k - 1 for k in reversed(hidden)), *after]


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
    "_trilinear": _bilinear,
}
