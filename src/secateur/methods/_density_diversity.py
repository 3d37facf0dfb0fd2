"""Density-diversity: weights are drawn to zero and to one another, so that few of few values are left."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.penalties import density_and_diversity


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def density_diversity(
    density: float, *, until: int, strength: float = 3e-4, every: int = 10, scope: Scope | None = None
) -> Method:
    """Train fully connected layers towards few weights of few values: a price on size and on every difference.

    Minimise L + λ Σ_l (Σ_a |w_a| + Σ_{a<b} |w_a − w_b|/(n_l − 1)) until step `until`, where the κ largest |w| stay and
    train on without the price. The gradient of the sum over pairs is (#smaller − #larger)/(n − 1), by sorting.

    Its authors measure it against Deep Compression (arXiv 1510.00149).

    Args:
        density: the fraction that stays.
        until: the step of the cut, and the last with the price.
        strength: λ.
        every: the price joins at every so many steps, so many times as strong: sorting is what it costs.
        scope: who competes; everywhere by default.

    Family: during training.
    Source: Wang, Cai, Bilmes & Noble, "Training compressed fully-connected networks with a density-diversity penalty",
    ICLR 2017, eq. 1, from memory.
    Deviates: the sum over pairs is divided by n − 1, so that λ means the same in layers of all sizes; the paper adds
    the price in a few random minibatches, here in every k-th. Its second stage, in which equal weights are tied and
    share their gradient, is `trained_quantisation` afterwards. Convolutions compete without paying. λ is chosen on
    MNIST.
    """
    return method(
        "density_diversity",
        score,
        structure=weights(),
        scope=scope or everywhere(),
        schedule=once(density, at=until),
        penalty=density_and_diversity(strength, every=every),
    )
