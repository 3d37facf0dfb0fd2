"""LC: learn and compress in turns, each weight drawn to a compressed copy of itself, until the two are one."""

from __future__ import annotations

from secateur._base.errors import SecateurError
from secateur.axes import Method, Scope, Structure, method
from secateur.axes.schedule import steady
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.gates import compressed


def lc(
    density: float,
    *,
    until: int,
    begin: int | None = None,
    every: int | None = None,
    mu: float = 1e-3,
    growth: float = 1.2,
    multipliers: bool = True,
    scope: Scope | None = None,
    structure: Structure | None = None,
) -> Method:
    """Draw the weights to their nearest sparse copy, choose the copy anew, and draw harder: the copy is the answer.

    min L(w) subject to w = θ, ‖θ‖₀ ≤ κ. Learning: minimise L(w) + (μ/2)‖w − θ − λ/μ‖². Compression, at every milestone:
    θ ← the κ largest entries of w − λ/μ among all layers, λ ← λ − μ(w − θ), and μ_k = μ₀·aᵏ. At the first one μ = 0 and
    λ = 0: θ is the magnitude pruning of w. After the last, w ← θ, and what stays trains on.

    Args:
        density: κ as a fraction of the weights.
        until: the milestones come before this step.
        begin: the step of the first; a quarter of `until` by default, 0 for a network that is trained already.
        every: optimizer steps of a learning phase; 100, or less where that would be fewer than 20 phases.
        mu: μ₀. Training needs learning rates well below 1/μ.
        growth: a.
        multipliers: False leaves λ = 0, the quadratic penalty; True is the method of multipliers, which is ADMM with
            one pass of either kind.
        scope: who competes for θ; everywhere by default.
        structure: what is kept or cut as one, by Σ|w − λ/μ|; single weights by default.

    Family: during training.
    Source: Carreira-Perpiñán & Idelbayev, "“Learning-Compression” algorithms for neural net pruning", CVPR 2018, §3;
    the theory: arXiv 1707.01209. ADMM: Zhang et al., arXiv 1804.03294.
    Deviates: only the ℓ0 constraint form, whose C-step is a scope; one optimizer goes on through all phases. μ₀ and a
    are for phases of 100 steps, not 20 epochs (9e-5 and 1.1 there, in 40 phases); survivors are trained after the end.
    """
    first = until // 4 if begin is None else begin
    gap = max(1, min(100, (until - first) // 20)) if every is None else every
    if not 0 <= first < until:
        raise SecateurError(f"`begin` must be a step from 0 to before until={until}, got {begin}. Begin earlier.")
    return method(
        "lc",
        None,
        structure=structure or weights(),
        scope=scope or everywhere(),
        schedule=steady(density, every=gap, until=until, begin=first),
        relax=compressed(mu=mu, growth=growth, multipliers=multipliers),
    )
