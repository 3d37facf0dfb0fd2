"""Pruning with approximate isometry: SNIP on orthogonal weights, and survivors brought back to singular values of 1."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.repairs.restored import isometric


def score(weight: Tensor, grad: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(weight, grad, out=out).abs_()


def isometry(density: float, *, rounds: int = 1000, rate: float = 0.1) -> Method:
    """Keep the most sensitive connections, and move them until each layer's singular values are near 1 again.

    Sensitivity can be trusted where signals carry: draw the weights as orthogonal matrices first
    (`signals.orthogonal_`). Then s_j = |w_j ∂L/∂w_j|, summed with its sign over all batches (the authors take the whole
    training set); and min Σ_l ‖(C^l ⊙ W^l)(C^l ⊙ W^l)ᵀ − I‖_F over the survivors (`repairs.restored.isometric`).

    Args:
        density: the fraction that stays.
        rounds: steps of the repair; the authors take 10,000.
        rate: of its gradient descent.

    Family: at initialisation.
    Source: Lee, Ajanthan, Gould & Torr, "A signal propagation perspective", ICLR 2020, arXiv 1906.06307, §4 and §5.
    Deviates: biases are neither counted nor pruned; the Gram matrix is that of each layer's shorter side; fewer steps.
    """
    return method(
        "isometry",
        score,
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
        repair=isometric(iterations=rounds, rate=rate),
    )
