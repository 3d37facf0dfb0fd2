"""Probabilistic pruning: weights stay by chance, the larger the likelier; what Han et al. tried, and left."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, Scope, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights


def score(weight: Tensor, noise: Tensor) -> Tensor:
    # Exponentially distributed: the largest |w|/E are a draw without return. Noise is a multiple of 2⁻²⁴, and a zero
    # would keep its weight for certain.
    return weight.abs().double() / -torch.log1p(-noise.double().clamp(min=2**-25))


def probabilistic(density: float, *, scope: Scope | None = None) -> Method:
    """Draw the weights that stay, one after the other, each with a probability in proportion to |w|.

    s = |w| / E with E ~ Exp(1), and the κ largest stay: a draw without return, in which the first is w_i with
    probability |w_i| / Σ|w|. Worse than keeping the largest for certain, which is what it is here to show.

    Args:
        density: the fraction that stays.
        scope: who competes; everywhere by default.

    Family: after training.
    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, §3.4: “probabilistically pruning parameters based on their
    absolute value” gave worse results.
    Deviates: the paper does not say how it draws; here in proportion to |w|, and exactly κ stay.
    """
    return method("probabilistic", score, structure=weights(), scope=scope or everywhere(), schedule=once(density))
