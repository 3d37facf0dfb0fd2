"""Weight elimination: a price per weight that grows with small weights and no longer with large ones."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, Structure, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.penalties import elimination


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def weight_elimination(
    density: float,
    *,
    until: int,
    strength: float = 3e-5,
    scale: float = 0.05,
    scope: Scope | None = None,
    structure: Structure | None = None,
) -> Method:
    """Count the weights softly and let the count cost: small weights decay, large ones are left in peace.

    Minimise L + λ Σ (w/w₀)²/(1 + (w/w₀)²) until step `until`; then the κ largest |w| stay and train without the price.
    For |w| ≪ w₀ a weight pays as under weight decay, for |w| ≫ w₀ it pays λ, whatever its size.

    The SNIP paper (arXiv 1810.02340, §2) names it among the penalties that it does without.

    Args:
        density: the fraction that stays.
        until: the step of the cut, and the last with the price.
        strength: λ.
        scale: w₀, the size above which a weight counts as one.
        scope: who competes; everywhere by default.
        structure: what is cut as one; single weights by default.

    Family: during training.
    Source: Weigend, Rumelhart & Huberman, "Generalization by weight-elimination with application to forecasting",
    NIPS 1990 (proceedings of 1991), eq. 1, from memory.
    Deviates: λ is constant, where the paper raises and lowers it as the error falls; w₀ = 1 there, for activations and
    weights of order 1, and 0.05 here, the order of the weights of LeNet-300-100 on MNIST, on which λ is chosen too.
    The price alone makes no zeros, and the paper cuts by eye: here κ weights stay.
    """
    return method(
        "weight_elimination",
        score,
        structure=structure or weights(),
        scope=scope or everywhere(),
        schedule=once(density, at=until),
        penalty=elimination(strength, scale=scale),
    )
