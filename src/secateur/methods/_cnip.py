"""CNIP: weights and units ranked together, by the sensitivity of the loss to each."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import geometric, once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.measures import grad


def score(weight: Tensor, grad: Tensor) -> Tensor:
    flow = weight * grad
    if flow.dim() < 2:
        return flow.abs()
    out = flow.flatten(1).sum(1).abs().reshape(-1, *[1] * (flow.dim() - 1))
    into = flow.transpose(0, 1).flatten(1).sum(1).abs().reshape(1, -1, *[1] * (flow.dim() - 2))
    return torch.minimum(torch.minimum(flow.abs(), out), into)


def cnip(density: float, *, iterative: bool = True) -> Method:
    """Keep what is sensitive itself and belongs to sensitive units: one threshold for weights and for units' gates.

    A weight goes when |w ∂L/∂w| is below the threshold, and all weights into a unit, or out of it, when the unit's gate
    is: |∂L/∂c| = |Σ w ∂L/∂w| over them. So a weight's worth is the least of the three, and the threshold is the one at
    which κ weights stay.

    Args:
        density: the fraction of all weights that stays.
        iterative: in SNIP-it's steps, each halving the distance to the target, scoring again after each (CNIP-it).

    Family: at initialisation.
    Source: Verdenius, Stol & Forré, arXiv 2006.00896, §3, and the authors' code (CNIPit).
    Deviates: κ counts single weights, those of units that went included; the authors' share of units comes out of
    their threshold on both. Inputs of the network have gates as well. Scoring runs in eval mode: in front of a batch
    norm in train mode every gate's gradient is 0. Groups of a convolution share the gates of their inputs.
    """
    return method(
        "cnip",
        measured(score, {"grad": grad(train=False)}),
        structure=weights(),
        scope=everywhere(),
        schedule=geometric(density) if iterative else once(density),
    )
