"""Karnin's sensitivities: what the loss owes to each weight, gathered while the network trains."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.curvature import path_sensitivity


def score(path: Tensor) -> Tensor:
    return path


def karnin(density: float, *, until: int, scope: Scope | None = None) -> Method:
    """Keep the weights whose way from their first value has lowered the loss most, and cut the others after training.

    S = −Σ_t (∂L/∂w)(t) Δw(t) · w_f/(w_f − w_i), from the first step to step `until`: the loss at w = 0 minus the loss
    at w_f, if its slope between them is what it was on the way from w_i to w_f. It costs no pass of its own: gradients
    and steps are those of training.

    Args:
        density: the fraction that stays.
        until: the step of the cut.
        scope: who competes; everywhere by default.

    Family: during training.
    Source: Karnin, "A simple procedure for pruning back-propagation trained neural networks", IEEE Transactions on
    Neural Networks 1, 1990, eqs. 8 to 12; the SNIP paper sets itself apart from it (arXiv 1810.02340, §2).
    Deviates: Δw is what the optimizer did, momentum and decay included, where the paper writes it as −η ∂L/∂w;
    gradients of mini-batches; a weight that never moved is worth 0.
    """
    return method(
        "karnin",
        measured(score, {"path": path_sensitivity()}),
        structure=weights(),
        scope=scope or everywhere(),
        schedule=once(density, at=until),
    )
