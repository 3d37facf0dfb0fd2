"""OBD: optimal brain damage; keep the weights whose loss would cost most, by the curvature of the loss."""

from __future__ import annotations

from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes import Method, Schedule, Scope, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.measures import Measure, hessian_diag


def score(weight: Tensor, curvature: Tensor) -> Tensor:
    return 0.5 * curvature.abs() * weight.square()


def obd(
    density: float,
    *,
    curvature: Measure | None = None,
    schedule: Schedule | None = None,
    scope: Scope | None = None,
    structure: Structure | None = None,
) -> Method:
    """Keep the weights whose removal would raise the loss most, to second order at a minimum.

    s_k = ½ h_kk w_k², with h_kk = ∂²L/∂w_k² (`curvature`): at a minimum the first-order term is gone, and off-diagonal
    terms are left out. For a trained network; cut some, retrain, repeat.

    Args:
        density: the fraction that stays at the end.
        curvature: what stands for h_kk: `measures.hessian_diag(samples=…)` (the default); `curvature.lecun_diag()`, the
            paper's recursion, for chains of layers; `curvature.ggn_diag()`, exact where the network is piecewise linear
            (ReLU); `curvature.true_fisher()`, which it is the mean of; or `curvature.empirical_fisher()`, another
            quantity, which ranks alike only near a minimum of a likelihood.
        schedule: when, for a `Pruner`; it must end at `density`. By default once.
        scope: who competes; everywhere by default.
        structure: what is cut as one; a unit's score is the sum over its weights.

    Family: after training.
    Source: LeCun, Denker & Solla, "Optimal Brain Damage", NIPS 1989, eq. 5; for networks of today with Hutchinson's
    estimate of the diagonal, as in Yao et al., arXiv 2006.00719, eq. 5.
    Deviates: random signs, v ⊙ Hv in expectation, unless LeCun's recursion is asked for; estimates below zero count
    by their magnitude; the gradient is taken as zero whether or not training has ended.
    """
    plan = schedule or once(density)
    if plan.final != density:
        raise SecateurError(f"`schedule` ends at density {plan.final}, got density={density:g}. Make them agree.")
    return method(
        "obd",
        measured(score, {"curvature": curvature or hessian_diag()}),
        structure=structure or weights(),
        scope=scope or everywhere(),
        schedule=plan,
    )
