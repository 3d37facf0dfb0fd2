"""OBS: optimal brain surgeon; the weight that costs least goes, and all others of the network make up for it."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.repairs import surgeon, surgery


def score(surgery: Tensor) -> Tensor:
    return surgery


def obs(density: float, *, damping: float = 1e-6, most: int = 1024) -> Method:
    """Remove one weight after the other by the whole curvature of the loss, moving all others to make up for each.

    L_q = w_q²/(2[H⁻¹]_qq) is what weight q costs; the cheapest goes, δw = −(w_q/[H⁻¹]_qq)·H⁻¹e_q, and H⁻¹ forgets it.
    H = Jᵀ(∂²L/∂z²)J + αI of all n weights together: for small networks (n² numbers, n³ products), trained to a minimum.

    Args:
        density: ρ; κ = ⌊ρn + ½⌋ of all weights stay.
        damping: α as a share of the mean of the diagonal of H.
        most: the largest n that is not refused.

    Family: after training.
    Source: Hassibi & Stork, "Optimal Brain Surgeon", NIPS 1992, eq. 5 and 7; in today's notation Singh & Alistarh,
    arXiv 2004.14340, §3.
    Deviates: the Gauss–Newton matrix of any loss, where the paper has squared errors; one factorisation instead of a
    recursion over samples; α is relative to the diagonal (the paper has 1e-8 to 1e-4). H is not measured again after
    each removal: for that prune in steps, going on from `masks=`. Biases neither go nor move.
    """
    return method(
        "obs",
        measured(score, {"surgery": surgery(density, damping=damping, most=most)}),
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
        repair=surgeon(damping=damping, most=most),
    )
