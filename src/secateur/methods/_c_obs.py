"""C-OBS: whole units by the sum of their weights' OBS costs under a Kronecker-factored Fisher matrix."""

from __future__ import annotations

from secateur.axes import Method, Repair, Scope, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import filters
from secateur.curvature import input_factor, output_factor
from secateur.repairs import WeightCost, weight_removal


def c_obs(
    density: float,
    *,
    damping: float = 0.1,
    draws: int = 1,
    scope: Scope | None = None,
    structure: Structure | None = None,
    repair: Repair | None = None,
) -> Method:
    """Keep the units whose weights cost most to remove, each with the layer's others making up for it; one ranking.

    s_i = Σ_j w_ij²/([G⁻¹]_ii [A⁻¹]_jj), A and G as in `mlprune`; then W ← W − G⁻¹ C A⁻¹, C the entries w_ij/([G⁻¹]_ii
    [A⁻¹]_jj) of the rows that are cut. At least one unit of each layer stays. Without the update and the inverses it is
    C-OBD, `obd(structure=structure.filters(), curvature=curvature.true_fisher())`.

    Args:
        density: the fraction of all units that stays.
        damping: added to the diagonals of A and G, as a share of their mean.
        draws: labels drawn for each sample.
        scope: who competes; everywhere by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.
        repair: what the survivors do; the update above by default.

    Family: after training.
    Source: Wang, Grosse, Fidler & Zhang, "EigenDamage", arXiv 1905.05934, §3.2 and appendix.
    Deviates: ½ in the score, which does not change the ranking; damping instead of cutting small eigenvalues; biases
    are left alone; at most all but one unit of a layer goes, where the authors stop at 95 %.
    """
    return method(
        "c_obs",
        measured(WeightCost(damping), {"inputs": input_factor(), "outputs": output_factor(draws=draws)}),
        structure=structure or filters(),
        scope=scope or floored(everywhere(), at_least=1),
        schedule=once(density),
        repair=repair or weight_removal(draws=draws, damping=damping),
    )
