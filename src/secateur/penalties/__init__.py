"""Prices on weights and units that methods put on a network while it trains; `Penalty` itself is in `secateur.axes`."""

from __future__ import annotations

from secateur.penalties._angles import angle_similarity
from secateur.penalties._groups import group_lasso, group_shrinkage
from secateur.penalties._norms import on_scales, scale_shrinkage
from secateur.penalties._pairs import density_and_diversity
from secateur.penalties._shortcuts import around
from secateur.penalties._single import elimination, forgotten

__all__ = [
    "angle_similarity",
    "around",
    "density_and_diversity",
    "elimination",
    "forgotten",
    "group_lasso",
    "group_shrinkage",
    "on_scales",
    "scale_shrinkage",
]
