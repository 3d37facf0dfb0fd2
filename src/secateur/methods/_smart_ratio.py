"""Smart ratios: random pruning with densities that fall with depth, which is as good as choosing."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights


def score(noise: Tensor) -> Tensor:
    return noise


def smart_ratio(density: float, *, last: float = 0.3) -> Method:
    """Keep random weights, of the first layers more than of the later ones, whatever the network: random tickets.

    d_l ∝ (L − l + 1)² + (L − l + 1) for layers l = 1…L, the last linear layer at `last`, so that Σ d_l N_l = κ; layers
    above 1 are kept whole and the rest is solved again.

    Args:
        density: the fraction that stays.
        last: density of the last layer, if that is linear.

    Family: at initialisation.
    Source: Su et al., "Sanity-checking pruning methods: random tickets can win the jackpot", arXiv 2009.11094, §4.
    Deviates: counts are exact (largest remainders, total κ). A density so low that the last layer alone would exceed it
    is refused.
    """
    return method("smart_ratio", score, structure=weights(), scope=scope.smart_ratio(last=last), schedule=once(density))
