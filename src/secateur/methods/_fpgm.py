"""FPGM: filters close to the geometric median of their layer are replaceable by the others."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, Structure, method
from secateur.axes.schedule import Schedule, once
from secateur.axes.scope import layerwise
from secateur.axes.structure import filters


def score(rows: Tensor) -> Tensor:
    # Differences one by one: distances by matrix products lose those of filters that nearly agree.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def fpgm(density: float, *, schedule: Schedule | None = None, structure: Structure | None = None) -> Method:
    """Keep the filters that are farthest from all others of their layer: s_j = Σ_k ‖F_j − F_k‖₂.

    The filter nearest to the geometric median has the smallest sum, and what it says the others can say. Norms play no
    part: adding one vector to all filters changes nothing.

    Args:
        density: the fraction of each layer's filters that stays.
        schedule: when, for a `Pruner`; the authors choose anew at every epoch. Once by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: He, Liu, Wang, Hu & Yang, "Filter pruning via geometric median", arXiv 1811.00250, eq. 7.
    Deviates: distances alone, without the authors' mixture with norms.
    """
    return method(
        "fpgm",
        score,
        structure=structure or filters(),
        scope=layerwise(),
        schedule=schedule or once(density),
    )
