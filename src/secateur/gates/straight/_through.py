"""What gates with straight-through gradients share."""

from __future__ import annotations

from torch import Tensor


def through(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value` forward, to the bit, and the gradient of `surrogate` backward: a straight-through estimate."""
    return value + (surrogate - surrogate.detach())


def spread(weight: Tensor) -> Tensor:
    """The standard deviation of a layer's weights: the size of a signed constant."""
    return weight.detach().std(correction=0)
