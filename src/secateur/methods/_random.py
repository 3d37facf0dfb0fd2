"""Random pruning: the baseline that every other method must beat."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import once
from secateur.axes.scope import Scope, everywhere
from secateur.axes.structure import weights


def score(noise: Tensor) -> Tensor:
    return noise


def random(density: float, *, scope: Scope | None = None) -> Method:
    """Keep weights drawn at random: every set of κ weights is equally likely.

    s_j ~ U[0, 1), one global ranking; layer densities then fluctuate around `density`. Pass `scope=layerwise()` for
    exactly the same density in every layer, or use `erk` and `igq` for quotas.

    Family: at initialisation.
    Source: the "random pruning" baseline of SNIP (arXiv 1810.02340) and SynFlow (arXiv 2006.05467, §3).
    Deviates: Synaptic-Flow draws Gaussian scores; any continuous distribution gives the same masks in law.
    """
    return method("random", score, structure=weights(), scope=scope or everywhere(), schedule=once(density))
