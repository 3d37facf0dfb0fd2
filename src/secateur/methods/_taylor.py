"""Taylor pruning: units whose feature maps the loss depends on least, to first order, are the first to go."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, Schedule, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere, floored, ranked_with
from secateur.axes.structure import filters
from secateur.curvature import gate_magnitude


def score(gates: Tensor) -> Tensor:
    return gates


def by_layer_norm(scores: Tensor) -> Tensor:
    """Θ/√(Σ Θ²) of one layer's units, which may then be compared with others'."""
    norm = torch.linalg.vector_norm(scores)
    return scores / norm if norm > 0 else scores


def taylor(
    density: float, *, normalise: bool = True, schedule: Schedule | None = None, structure: Structure | None = None
) -> Method:
    """Keep the feature maps without which the loss would change most, to first order; one ranking of all layers.

    Θ_k = Σ_n |Σ_{h,w} z_k ∂L_n/∂z_k| over samples n, z_k the map that unit k gives its readers: by `gate_magnitude`.
    Then Θ ← Θ/√(Σ Θ²) in each layer, which lets layers compete. At least one unit of each layer stays.

    Args:
        density: the fraction of all units that stays.
        normalise: by the l2 norm of each layer's scores.
        schedule: when, for a `Pruner` with `batches`; the paper removes one unit every 10 to 30 steps.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Molchanov, Tyree, Karras, Aila & Kautz, arXiv 1611.06440, eqs. 8 and 11.
    Deviates: sums over positions where eq. 8 has their mean, which the normalisation undoes (without it, large maps
    count for more); what several layers read or make is one unit; no FLOPs term; κ units at once by default.
    """
    everything = ranked_with(by_layer_norm) if normalise else everywhere()
    return method(
        "taylor",
        measured(score, {"gates": gate_magnitude()}),
        structure=structure or filters(),
        scope=floored(everything, at_least=1),
        schedule=schedule or once(density),
    )
