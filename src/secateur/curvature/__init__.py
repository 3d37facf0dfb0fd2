"""Curvature of the loss as evidence: Fisher and Gauss-Newton matrices, their factors, and gates on whole units."""

from __future__ import annotations

from secateur.curvature._costs import macs_saved, memory_saved
from secateur.curvature._coupled import gradient_coupling
from secateur.curvature._factors import input_factor, output_factor
from secateur.curvature._fisher import empirical_fisher, ggn_diag, true_fisher
from secateur.curvature._gates import Cost, gate_fisher, gate_magnitude, gate_relevance, gate_taylor
from secateur.curvature._kernels import kernel_variance
from secateur.curvature._likelihood import Likelihood, categorical, gaussian
from secateur.curvature._path import path_sensitivity
from secateur.curvature._recursion import lecun_diag
from secateur.curvature._regression import sparse_regression
from secateur.curvature._samples import per_sample
from secateur.curvature._snapshots import snapshots

__all__ = [
    "Cost",
    "Likelihood",
    "categorical",
    "empirical_fisher",
    "gate_fisher",
    "gate_magnitude",
    "gate_relevance",
    "gate_taylor",
    "gaussian",
    "ggn_diag",
    "gradient_coupling",
    "input_factor",
    "kernel_variance",
    "lecun_diag",
    "macs_saved",
    "memory_saved",
    "output_factor",
    "path_sensitivity",
    "per_sample",
    "snapshots",
    "sparse_regression",
    "true_fisher",
]
