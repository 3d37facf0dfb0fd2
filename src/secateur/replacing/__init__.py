"""Layers of another kind in the place of a model's own: kernels in clusters (KSE), channels chosen by inputs (FBS)."""

from __future__ import annotations

from secateur.replacing._boost import Skipped, boost, boosting_price, count_skipped, suppress
from secateur.replacing._boosted import BoostedConv, Tally
from secateur.replacing._clustered import ClusteredConv, kernel_counts
from secateur.replacing._kernels import Clustered, Kernels, cluster_kernels, clustered_like

__all__ = [
    "BoostedConv",
    "Clustered",
    "ClusteredConv",
    "Kernels",
    "Skipped",
    "Tally",
    "boost",
    "boosting_price",
    "cluster_kernels",
    "clustered_like",
    "count_skipped",
    "kernel_counts",
    "suppress",
]
