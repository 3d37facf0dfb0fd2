"""DNS: dynamic network surgery; cut weights go on learning, and come back when they have grown large."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import surgery


def dns(*, until: int, quality: float = 1.0, gamma: float = 1e-4, power: float = 1.0) -> Method:
    """Cut and splice connections while training: what was cut by mistake comes back. The density emerges.

    Forward with W ⊙ T, gradient step on all of W. T ← 0 where |w| ≤ 0.9·t, T ← 1 where |w| > 1.1·t, else unchanged,
    with t = max(μ + c·σ, 0) of each layer's |w| at the first step, frozen. T is updated after a step i < `until` with
    probability (1 + γi)^−p. Start from a trained network.

    Args:
        until: the step from which the masks stay as they are.
        quality: c; the authors use 1 to 4, layer by layer.
        gamma: γ.
        power: p.

    Family: during training.
    Source: Guo, Yao & Chen, arXiv 1608.04493, eqs. 3 and 4, and the authors' Caffe layers.
    Deviates: biases are not cut; μ and σ are those of |w|, as in the code, and one quality serves all layers.
    """
    return method(
        "dns",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=until),
        relax=surgery(quality=quality, until=until, gamma=gamma, power=power),
    )
