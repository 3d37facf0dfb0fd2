"""L-OBS: layer-wise optimal brain surgeon; curvature from a layer's inputs alone."""

from __future__ import annotations

from secateur.axes import Method, Scope, measured, method
from secateur.axes.schedule import Schedule, once
from secateur.axes.scope import layerwise
from secateur.axes.structure import weights
from secateur.measures import rows
from secateur.repairs import OneByOne, least_squares_on
from secateur.repairs import released as as_released


def l_obs(
    density: float,
    *,
    damping: float = 1e-6,
    scope: Scope | None = None,
    schedule: Schedule | None = None,
    released: bool = False,
) -> Method:
    """Keep the weights whose removal would cost their layer's output most, and let the others make up for the rest.

    s_q = ½ w_q²/[Ψ⁻¹]_qq, with Ψ = X Xᵀ + λI of the layer's inputs, which all outputs share; one ranking. Each removal
    changes its row by −(w_q/[Ψ⁻¹]_qq)Ψ⁻¹e_q, after which Ψ⁻¹ forgets q: the row ends at the least-squares weights on
    what it keeps.

    Args:
        density: ρ of each layer.
        damping: λ as a share of the mean of the diagonal of X Xᵀ.
        scope: who competes; each layer for itself by default.
        schedule: in how many rounds, `schedule.exponential(density, rounds=…)`, say; ranked anew in each. By default
            once.
        released: as the authors' code has it, where Ψ⁻¹ never forgets and removed weights that were moved are zeroed
            at the end. Worse than no update at all where inputs are correlated and many weights go.

    Family: after training.
    Source: Dong, Chen & Pan, arXiv 1705.07565, §3.2, eq. 5 and Algorithm 1.
    Deviates: Ψ⁻¹ forgets what was removed, unless `released`; biases stay, and Ψ has no entry for them; λ is relative
    to the mean of the diagonal (the authors add 1e-6 to the mean of the moments).
    """
    plan = schedule or once(density)
    if plan.final != density:
        raise ValueError(f"`schedule` ends at density {plan.final}, got density={density:g}. Make them agree.")
    return method(
        "l_obs",
        measured(OneByOne(damping), {"rows": rows(masked=True)}),
        structure=weights(),
        scope=scope or layerwise(),
        schedule=plan,
        repair=as_released(damping=damping) if released else least_squares_on(damping=damping),
    )
