"""Second moments of a layer's inputs: what a change of its weights does to its outputs, and the best that is left."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Float


def error_of(change: Float[Tensor, "out in"], gram: Float[Tensor, "in in"]) -> Float[Tensor, " out"]:
    """‖δ X‖² of each row δ of a change of the weights, from G = X Xᵀ: δ G δᵀ. In float64."""
    rows = change.double()
    return ((rows @ gram.double()) * rows).sum(1)


def damped(gram: Float[Tensor, "in in"], damping: float = 0.01) -> tuple[Float[Tensor, "in in"], Bool[Tensor, " in"]]:
    """G + λI in float64, λ = `damping` × the mean of the diagonal; and which inputs are dead.

    An input that was always zero says nothing of its weights: its row and column become those of the unit matrix, and
    it is told, so that its weights can go first.

    Raises:
        SecateurError: moments that are not finite, or not those of any inputs (a negative diagonal).
    """
    if not damping >= 0:
        raise SecateurError(
            f"`damping` must be at least 0, got {damping}: the share of the mean of the diagonal added."
        )
    moments = gram.double().clone()
    diagonal = moments.diagonal()
    if not bool(torch.isfinite(moments).all()):
        raise SecateurError(
            "the second moments of a layer's inputs are not finite: look for NaN among its activations."
        )
    if bool((diagonal < 0).any()):
        raise SecateurError("the second moments of a layer's inputs have a negative diagonal: they are no X Xᵀ.")
    dead = diagonal == 0
    diagonal += damping * float(diagonal.mean())
    moments[dead, :] = 0
    moments[:, dead] = 0
    diagonal[dead] = 1
    return moments, dead


def least_squares(
    weight: Float[Tensor, "out in"], keep: Bool[Tensor, "out in"], gram: Float[Tensor, "in in"]
) -> Float[Tensor, "out in"]:
    """The weights on the kept places that come nearest to the layer's outputs: argmin ‖(w − w′) X‖² row by row.

    w′_S = w_S + G_SS⁻¹ G_SP w_P = w_S − [G⁻¹]_SP ([G⁻¹]_PP)⁻¹ w_P, with S what a row keeps and P what it does not:
    whichever of the two systems is smaller is solved. Rows that keep the same places share one factorisation. Float64
    inside; the result has the weight's type. `gram` must be positive definite (`damped`).
    """
    found = torch.zeros_like(weight, dtype=torch.float64)
    dense, moments = weight.double(), gram.double()
    inverse = inverse_of(moments) if bool((2 * keep.sum(1) > keep.shape[1]).any()) else moments
    patterns, which = keep.unique(dim=0, return_inverse=True)
    order, sizes = which.argsort(stable=True), torch.bincount(which, minlength=len(patterns)).tolist()
    for pattern, rows in zip(patterns, order.split(sizes), strict=True):
        stays, goes = pattern.nonzero().flatten(), (~pattern).nonzero().flatten()
        own = dense[rows]
        if len(stays) > len(goes):
            factor = factor_of(inverse[goes[:, None], goes])
            moved = own - (inverse[:, goes] @ torch.cholesky_solve(own[:, goes].T, factor)).T
            found[rows[:, None], stays] = moved[:, stays]
        elif len(stays):
            factor = factor_of(moments[stays[:, None], stays])
            wanted = moments[stays] @ own.T  # G_S: w, all of the outputs
            found[rows[:, None], stays] = torch.cholesky_solve(wanted, factor).T
    return found.to(weight.dtype)


def factor_of(moments: Tensor) -> Tensor:
    """The Cholesky factor, or a sentence where there is none."""
    factor, failed = torch.linalg.cholesky_ex(moments)
    if int(failed):
        raise SecateurError(
            f"the second moments of a layer's inputs are not positive definite (at input {int(failed) - 1}): raise "
            "`damping`, or calibrate on more samples."
        )
    return factor


def inverse_of(moments: Tensor) -> Tensor:
    """G⁻¹ in float64, of moments that are positive definite."""
    return torch.cholesky_inverse(factor_of(moments.double()))
