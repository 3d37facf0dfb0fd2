"""Supermasks: a random mask is learned, and makes of untrained weights a network that works."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import supermasks


def supermask(*, rate: float = 100.0, start: float = 0.0, constant: bool = True, rescale: bool = True) -> Method:
    """Learn for each weight of an untrained network the chance that it is used; the weights stay as they are.

    Forward with sign(w)·σ ⊙ m · n/Σm, m ~ Bernoulli(sigmoid(s)), σ the standard deviation of the layer's weights and n
    their number; backward as if m were sigmoid(s). The density emerges.

    Args:
        rate: learning rate of s, by plain SGD of its own; the authors' is 100 (in 2,000 epochs).
        start: s at the beginning.
        constant: use signed constants; False uses the weights' own values.
        rescale: the factor n/Σm of each layer.

    Family: during training.
    Source: Zhou, Lan, Liu & Yosinski, arXiv 1905.01067, §5, and the authors' code.
    Deviates: one mask is drawn after each step, for the next and for evaluation; the authors draw at each forward, in
    tests too. The mask of the last step is what stays. Biases and batch norm are trained by the loop's optimizer.
    """
    return method(
        "supermask",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None),
        relax=supermasks(rate=rate, start=start, constant=constant, rescale=rescale),
    )
