"""Layers of another kind in the place of a model's own: kernels in clusters with an index (KSE)."""

from __future__ import annotations

from secateur.replacing._clustered import ClusteredConv, kernel_counts
from secateur.replacing._kernels import Clustered, Kernels, cluster_kernels, clustered_like

__all__ = ["Clustered", "ClusteredConv", "Kernels", "cluster_kernels", "clustered_like", "kernel_counts"]
