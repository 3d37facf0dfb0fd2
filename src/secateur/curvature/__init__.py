"""Curvature of the loss as evidence: Fisher and Gauss-Newton matrices, their factors, and gates on whole units."""

from __future__ import annotations

from secateur.curvature._fisher import empirical_fisher, ggn_diag, true_fisher
from secateur.curvature._likelihood import Likelihood, categorical, gaussian
from secateur.curvature._samples import per_sample

__all__ = ["Likelihood", "categorical", "empirical_fisher", "gaussian", "ggn_diag", "per_sample", "true_fisher"]
