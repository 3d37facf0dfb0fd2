"""Kron-OBS and Kron-OBD: whole units by what their rows cost under a Kronecker-factored Fisher matrix."""

from __future__ import annotations

from secateur.axes import Method, Repair, Scope, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import filters
from secateur.curvature import input_factor, output_factor
from secateur.repairs import RowCost, row_removal


def kron_obs(
    density: float,
    *,
    made_up: bool = True,
    damping: float = 0.1,
    draws: int = 1,
    scope: Scope | None = None,
    structure: Structure | None = None,
    repair: Repair | None = None,
) -> Method:
    """Keep the units whose whole rows cost most to remove, the layer's other rows making up for it; one ranking.

    s_i = θ_iᵀ A θ_i/(2 [G⁻¹]_ii), θ_i the weights of unit i, A and G as in `mlprune`; then the rows S that are cut are
    made up for together, δW = −G⁻¹_:S ([G⁻¹]_SS)⁻¹ W_S. At least one unit of each layer stays.

    Args:
        density: the fraction of all units that stays.
        made_up: False is Kron-OBD: s_i = ½ G_ii θ_iᵀ A θ_i, and nothing makes up for it.
        damping: added to the diagonals of A and G, as a share of their mean.
        draws: labels drawn for each sample.
        scope: who competes; everywhere by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.
        repair: what the survivors do; the update above by default, none where nothing is `made_up`.

    Family: after training.
    Source: Wang, Grosse, Fidler & Zhang, "EigenDamage", arXiv 1905.05934, eqs. 8 and 9.
    Deviates: θᵀAθ as printed, where the authors' code has Σ_jk θ_j² A_jk; rows are made up for together, where the
    paper adds up the updates of single ones; damping instead of cutting small eigenvalues; biases are left alone.
    """
    own = row_removal(draws=draws, damping=damping) if made_up else None
    factors = {"inputs": input_factor(), "outputs": output_factor(draws=draws)}
    return method(
        "kron_obs" if made_up else "kron_obd",
        measured(RowCost(made_up, damping), factors),
        structure=structure or filters(),
        scope=scope or floored(everywhere(), at_least=1),
        schedule=once(density),
        repair=repair or own,
    )
