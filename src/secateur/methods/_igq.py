"""Random pruning with ideal-gas quotas per layer."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights


def score(noise: Tensor) -> Tensor:
    return noise


def igq(density: float) -> Method:
    """Keep random weights, the smaller the layer the denser: quotas that behave like an ideal gas under pressure.

    d_l = 1/(F·N_l + 1), N_l weights in layer l, with the force F ≥ 0 such that Σ d_l N_l = κ.

    Family: at initialisation.
    Source: Vysogorets & Kempe, "Connectivity matters", arXiv 2107.02306, §4.
    Deviates: counts are exact (largest remainders), not within 1/N.
    """
    return method("igq", score, structure=weights(), scope=scope.igq(), schedule=once(density))
