"""WoodFisher: OBS with blocks of the empirical Fisher matrix, inverted by Woodbury's identity."""

from __future__ import annotations

from secateur._base.errors import SecateurError
from secateur.axes import Method, Repair, Schedule, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.curvature import snapshots
from secateur.repairs import BlockCost, LowRank


def wood_fisher(
    density: float,
    *,
    block: int = 2000,
    damping: float = 1e-5,
    group: int = 1,
    most: int | None = 400,
    scope: Scope | None = None,
    schedule: Schedule | None = None,
    repair: Repair | None = None,
) -> Method:
    """Keep the weights whose removal costs most, ½ w_q²/[F⁻¹]_qq, with the curvature of the gradients themselves.

    F = λI + (1/N) Σ g gᵀ over N gradients, in blocks of consecutive weights of a tensor; F⁻¹ by Woodbury, never formed
    where N is smaller than a block. One ranking of all layers. Then δ = −Σ_q (w_q/[F⁻¹]_qq) F⁻¹e_q for all that is cut.

    Args:
        density: the fraction that stays.
        block: weights of a block.
        damping: λ.
        group: samples that each gradient is the mean of. The authors average mini-batches, which makes F smaller by
            their size, so that λ means something else.
        most: N at most.
        scope: who competes; everywhere by default (the paper's joint threshold), or `layerwise()`.
        schedule: when, for a `Pruner` with `batches`; the paper prunes gradually. Once by default.
        repair: what the survivors do; the update above by default.

    Family: after training.
    Source: Singh & Alistarh, "WoodFisher", arXiv 2004.14340, §3 and §4.
    Deviates: gradients of single samples by default; memory N times the weights, where the recursion of the paper needs
    block times the weights.
    """
    if block < 1 or not damping > 0:
        raise SecateurError(f"`block` must be at least 1 and `damping` positive, got {block} and {damping}.")
    gradients = snapshots(group=group, most=most)
    return method(
        "wood_fisher",
        measured(BlockCost(block, damping), {"snapshots": gradients}),
        structure=weights(),
        scope=scope or everywhere(),
        schedule=schedule or once(density),
        repair=repair or LowRank(gradients, block, damping),
    )
