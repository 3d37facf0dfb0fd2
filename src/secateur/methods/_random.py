"""Random pruning: the baseline that every other method must beat."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from secateur.axes import Method, Structure, method
from secateur.axes.schedule import once
from secateur.axes.scope import Scope, everywhere, floored
from secateur.axes.structure import weights


def score(noise: Tensor) -> Tensor:
    return noise


def one_draw(scores: Tensor) -> Tensor:
    """One number for a unit, whatever its size: a sum of draws would favour large ones."""
    return scores[:, 0]


def random(density: float, *, scope: Scope | None = None, structure: Structure | None = None) -> Method:
    """Keep weights drawn at random: every set of κ weights is equally likely.

    s_j ~ U[0, 1), one global ranking; layer densities then fluctuate around `density`. Pass `scope=layerwise()` for
    exactly the same density in every layer, or use `erk` and `igq` for quotas.

    Args:
        density: the fraction that stays.
        scope: who competes; everywhere by default, of whole units at least one of each layer.
        structure: what is drawn: single weights by default, `filters()` for whole units, which `shrink` ties. A unit
            has one draw.

    Family: at initialisation.
    Source: the "random pruning" baseline of SNIP (arXiv 1810.02340) and SynFlow (arXiv 2006.05467, §3).
    Deviates: Synaptic-Flow draws Gaussian scores; any continuous distribution gives the same masks in law.
    """
    units = weights() if structure is None else replace(structure, reduce=one_draw)
    among = everywhere() if structure is None else floored(everywhere(), at_least=1)
    return method("random", score, structure=units, scope=scope or among, schedule=once(density))
