"""Class-blind filters: one ranking of the whole network by the mean size of a filter's weights."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Structure, method
from secateur.axes.schedule import Schedule, once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import filters, mean


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def class_blind(density: float, *, schedule: Schedule | None = None, structure: Structure | None = None) -> Method:
    """Keep the filters of the largest mean |w| of the whole network, at least one of each layer.

    s_j = Σ|F_j|/numel(F_j): neither the layer nor the size of a filter matters.

    Args:
        density: the fraction of all filters that stays.
        schedule: when, for a `Pruner`; the authors prune in small steps and retrain. Once by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Salama, Ostapenko, Klein & Nabi, "Pruning at a glance", arXiv 1912.00200 (from memory: the score is the L1
    norm relative to the rest of the network); "class-blind": See, Luong & Manning, arXiv 1606.09274, §3.
    Deviates: the norm is divided by the number of a filter's weights; one filter of each layer stays in any case.
    """
    return method(
        "class_blind",
        score,
        structure=structure or filters(reduce=mean),
        scope=floored(everywhere(), at_least=1),
        schedule=schedule or once(density),
    )
