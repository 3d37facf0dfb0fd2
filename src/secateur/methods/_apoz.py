"""APoZ: units whose output is nearly always zero behind their ReLU are the first to go."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, Structure, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import filters


def score(activity: Tensor) -> Tensor:
    return activity


def apoz(density: float, *, scope: Scope | None = None, structure: Structure | None = None) -> Method:
    """Keep the units that are active most often: the lowest average percentage of zeros behind a ReLU.

    s_k = 1 − APoZ_k, the fraction of examples and positions at which the unit's output is positive.

    Args:
        density: the fraction of each layer's units that stays.
        scope: who competes; each layer for itself by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Hu, Peng, Tai & Tang, "Network trimming", arXiv 1607.03250, §3.
    Deviates: outputs are looked at before a normalisation that may stand in between; exactly κ units stay, where the
    authors cut at a multiple of the standard deviation and in rounds.
    """
    return method(
        "apoz",
        score,
        structure=structure or filters(),
        scope=scope or layerwise(),
        schedule=once(density),
    )
