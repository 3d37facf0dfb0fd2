"""L1 filters: the filters whose weights are small in sum are the first to go."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, Structure, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import filters


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def l1_filters(density: float, *, scope: Scope | None = None, structure: Structure | None = None) -> Method:
    """Keep the filters of the largest L1 norm, s_j = Σ|F_j|, the same share of every layer.

    Args:
        density: the fraction of each layer's filters that stays.
        scope: who competes; each layer for itself by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Li, Kadav, Durdanovic, Samet & Graf, arXiv 1608.08710, §3.1.
    Deviates: the independent form; the greedy one, which leaves out kernels of inputs that are gone already, is not
    here. Which layers are sensitive and skipped, the authors choose net by net: narrow with `only=`.
    """
    return method(
        "l1_filters",
        score,
        structure=structure or filters(),
        scope=scope or layerwise(),
        schedule=once(density),
    )
