"""Group Fisher: coupled channels, by the Fisher information of the one gate that they share, per cost."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Schedule, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import filters
from secateur.curvature import Cost, gate_fisher, memory_saved


def score(information: Tensor) -> Tensor:
    return information


def group_fisher(
    density: float,
    *,
    cost: Cost | None = memory_saved,
    schedule: Schedule | None = None,
    structure: Structure | None = None,
) -> Method:
    """Keep the units whose gates carry most Fisher information for what they cost; one ranking of all layers.

    s_k = ½ Σ_n (∂L_n/∂m_k)² / c_k over samples n, m_k one gate on the inputs of all layers that read unit k: gradients
    of coupled layers are summed before they are squared. At least one unit of each layer stays.

    Args:
        density: the fraction of all units that stays.
        cost: c_k: `curvature.memory_saved` (activations), `curvature.macs_saved`, your own, or None for 1.
        schedule: when, for a `Pruner` with `batches`; the paper removes one unit every 10 to 25 steps.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Liu, Zhang, Kuang, Zhou, Xue, Wang, Chen, Yang, Liao & Zhang, arXiv 2108.00708, §3.
    Deviates: layers that make a unit together share its score; a price is not floored at a million activations; κ units
    at once by default. Of single weights the same is `obd(curvature=curvature.empirical_fisher())`.
    """
    return method(
        "group_fisher",
        measured(score, {"information": gate_fisher(cost=cost)}),
        structure=structure or filters(),
        scope=floored(everywhere(), at_least=1),
        schedule=schedule or once(density),
    )
