"""DNS: dynamic network surgery; cut weights go on learning, and come back when they have grown large."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import surgery


def dns(
    *,
    until: int,
    quality: float | Mapping[str, float] = 1.0,
    gamma: float = 1e-4,
    power: float = 1.0,
    low: float = 0.9,
    high: float = 1.1,
    biases: bool = False,
) -> Method:
    """Cut and splice connections while training: what was cut by mistake comes back. The density emerges.

    Forward with W ⊙ T, gradient step on all of W. T ← 0 where |w| ≤ a·t, T ← 1 where |w| > b·t, else unchanged,
    with t = max(μ + c·σ, 0) of each layer's |w| at the first step, frozen. T is updated after a step i < `until` with
    probability (1 + γi)^−p. Start from a trained network.

    Args:
        until: the step from which the masks stay as they are.
        quality: c, one for all layers, or by name or glob (`{"conv*": 1.0, "fc*": 2.0}`), and layers that nothing names
            are left alone. The authors use 1 to 4, layer by layer (from memory).
        gamma: γ.
        power: p.
        low: a.
        high: b.
        biases: whether biases are cut by the same rule, as the authors do.

    Family: during training.
    Source: Guo, Yao & Chen, arXiv 1608.04493, eqs. 3 and 4, and the authors' Caffe layers.
    Deviates: biases are not cut unless asked for, and each tensor has a threshold of its own, where the code has one
    for a layer's weights and biases together; μ and σ are those of |w|, as in the code.
    """
    return method(
        "dns",
        None,
        structure=weights(biases=biases),
        scope=scope.everywhere(),
        schedule=once(None, at=until),
        relax=surgery(quality=quality, until=until, gamma=gamma, power=power, low=low, high=high),
    )
