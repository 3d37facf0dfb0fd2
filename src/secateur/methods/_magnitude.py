"""Magnitude pruning: keep the largest weights."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import Schedule, once
from secateur.axes.scope import Scope, everywhere
from secateur.axes.structure import Structure, weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def magnitude(
    density: float,
    *,
    scope: Scope | None = None,
    schedule: Schedule | None = None,
    structure: Structure | None = None,
) -> Method:
    """Keep the weights of largest magnitude: s_j = |w_j|.

    At initialisation it is a baseline; after training it is the classic (train, cut, retrain). With a
    `schedule` such as `cubic(...)` and a `Pruner` it is gradual magnitude pruning during training; the schedule must
    end at `density`. With a `structure` such as `structure.blocks(4, 1)` whole units are kept or cut, by Σ|w_j| over
    their weights, and `density` counts units.

    Family: any time.
    Source: Han et al., arXiv 1506.02626, §3; gradual: Zhu & Gupta, arXiv 1710.01878, eq. 1.
    Deviates: Han cuts at a threshold (a multiple of each layer's standard deviation); here exactly κ weights stay.
    He also knows single weights only; units of several are ours.
    """
    plan = schedule or once(density)
    if plan.final != density:
        raise ValueError(f"`schedule` ends at density {plan.final}, got density={density:g}. Make them agree.")
    return method("magnitude", score, structure=structure or weights(), scope=scope or everywhere(), schedule=plan)
