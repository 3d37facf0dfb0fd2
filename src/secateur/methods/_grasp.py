"""GraSP: keep the weights that preserve the gradient flow."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.measures import hessian_grad


def score(weight: Tensor, hessian_grad: Tensor) -> Tensor:
    return hessian_grad * weight


def magnitude_score(weight: Tensor, hessian_grad: Tensor) -> Tensor:
    return (hessian_grad * weight).abs_()


def grasp(density: float, *, signed: bool = True, temperature: float = 200.0, train: bool | None = True) -> Method:
    """Keep the weights whose removal would most reduce the gradient norm, so that the pruned network can learn.

    S(−θ_q) = −θ_q [Hg]_q is the first-order change of the gradient norm when weight q goes; the largest S are
    removed, so a weight's score here is −S = θ_q [Hg]_q. H and g are of the loss with logits divided by `temperature`.

    Args:
        density: the fraction that stays.
        signed: False keeps by |θ ⊙ Hg|, which "Missing the mark" (arXiv 2009.08576) found better.
        temperature: flattens the softmax; part of the method, it changes the ranking.
        train: mode while scoring; the authors' code leaves BN on batch statistics (True).

    Family: at initialisation.
    Source: Wang, Zhang & Grosse, ICLR 2020, arXiv 2002.07376, eqs. 6-8 and Algorithm 2.
    Deviates: the authors' code draws k images per class, sorts them by class and halves the batch, redraws linear
    layers in the scoring copy, and keeps one weight too many. Here your batches are used as they come, with the
    model's own weights, and counts are exact.
    """
    return method(
        "grasp",
        measured(
            score if signed else magnitude_score,
            {"hessian_grad": hessian_grad(temperature=temperature, train=train)},
        ),
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
    )
