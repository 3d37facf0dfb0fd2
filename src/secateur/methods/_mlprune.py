"""MLPrune: OBS with a Kronecker-factored Fisher matrix, whose scores all layers share."""

from __future__ import annotations

from secateur.axes import Method, Repair, Schedule, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.curvature import input_factor, output_factor
from secateur.repairs import WeightCost, weight_removal


def mlprune(
    density: float,
    *,
    damping: float = 0.1,
    draws: int = 1,
    scope: Scope | None = None,
    schedule: Schedule | None = None,
    repair: Repair | None = None,
) -> Method:
    """Keep the weights whose removal costs most when the others of the layer make up for it; one ranking of all layers.

    s_ij = ½ w_ij²/([G⁻¹]_ii [A⁻¹]_jj), with A = E x xᵀ of a layer's inputs and G = E g gᵀ of what the loss wants of its
    outputs, labels drawn from the model: A ⊗ G stands for the layer's Fisher matrix, and so for the loss itself. Then
    δW = −Σ (w_ij/([G⁻¹]_ii [A⁻¹]_jj)) (G⁻¹e_i)(A⁻¹e_j)ᵀ over all that is cut. Needs inputs, of a classifier.

    Args:
        density: the fraction that stays.
        damping: added to the diagonals of A and G, as a share of their mean.
        draws: labels drawn for each sample.
        scope: who competes; everywhere by default.
        schedule: when; the paper prunes and trains in a few rounds. Once by default.
        repair: what the survivors do; the update above by default.

    Family: after training.
    Source: Zeng & Urtasun, "MLPrune: multi-layer pruning for automated neural network compression", 2018 (OpenReview
    r1g5b2RcKm), §3, from memory; factors: Martens & Grosse, arXiv 1503.05671, §3.
    Deviates: biases are left alone, so that A has no 1 for them; damping of both factors is relative to their diagonal,
    and was chosen on MNIST with 256 samples. All at once by default: with `schedule.exponential(density, rounds=8)`,
    which measures again after each round, far less is lost.
    """
    return method(
        "mlprune",
        measured(WeightCost(damping), {"inputs": input_factor(), "outputs": output_factor(draws=draws)}),
        structure=weights(),
        scope=scope or everywhere(),
        schedule=schedule or once(density),
        repair=repair or weight_removal(draws=draws, damping=damping),
    )
