"""OBC (ExactOBS): from each row the cheapest weight goes, all others make up for it, again and again."""

from __future__ import annotations

from secateur.axes import Method, Repair, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise, n_of_m
from secateur.axes.structure import weights
from secateur.measures import rows
from secateur.repairs import Greedy, least_squares_on


def obc(
    density: float,
    *,
    pattern: tuple[int, int] | None = None,
    scope: Scope | None = None,
    damping: float = 0.01,
    repair: Repair | None = None,
) -> Method:
    """Remove weights of each row greedily and exactly by the layer's own error, then solve for what is left.

    p = argmin w_p²/[H⁻¹]_pp;  w ← w − (w_p/[H⁻¹]_pp)H⁻¹_:p;  H⁻¹ ← H⁻¹ − H⁻¹_:p H⁻¹_p:/[H⁻¹]_pp, with H = X Xᵀ + λI.
    The rows of a layer share its count by the level of their losses: the cheapest removals of all are made. What stays
    then has the least-squares weights. One row costs in³(1 − ρ) products: for layers of a few thousand inputs.

    Args:
        density: ρ of each layer.
        pattern: (N, M) keeps N of every M consecutive inputs, of convolutions of every M channels; `density` is N/M.
        scope: who competes; each layer for itself by default. Any other needs the rows followed to their end, which
            takes 1/(1 − ρ) as long; `everywhere()` compares the rise of the layers' own squared errors.
        damping: λ as a share of the mean of the diagonal of X Xᵀ.
        repair: what the survivors do; least squares by default.

    Family: after training.
    Source: Frantar, Singh & Alistarh, "Optimal Brain Compression", arXiv 2208.11580, Algorithm 1, §4 and §5.
    Deviates: damped always (the authors only where a factorisation fails). Losses of a row count as the highest so far,
    since they need not rise. Weights of inputs that are always zero go first.
    """
    follow = Greedy(None if scope is not None else density, pattern, damping)
    return method(
        "obc",
        measured(follow, {"rows": rows(masked=True)}),
        structure=weights(),
        scope=scope or (layerwise() if pattern is None else n_of_m(*pattern)),
        schedule=once(density),
        repair=repair or least_squares_on(damping=damping),
    )
