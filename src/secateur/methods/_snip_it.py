"""SNIP-it: SNIP's criterion in a few geometric steps."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import geometric
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.measures import grad


def score(weight: Tensor, grad: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(weight, grad, out=out).abs_()


def snip_it(density: float, *, halvings: int = 5) -> Method:
    """Prune by sensitivity in steps that halve the distance to the target, scoring again after each.

    Elasticity e_j = |w_j ∂L/∂w_j / L|; the loss L rescales all scores alike and is left out. With κ = 1 − ρ:
    p_i = κ − (κ − ½)·½^i for i = 0…`halvings`, then κ (`schedule.geometric`). Pruned weights never return.

    Family: at initialisation.
    Source: Verdenius, Stol & Forré, arXiv 2006.00896, §3.
    Deviates: the authors' code scores with nll_loss on raw logits and keeps one weight fewer than asked; here the
    loss is the training loss and counts are exact. Scoring runs in eval mode, as theirs.
    """
    return method(
        "snip_it",
        measured(score, {"grad": grad(train=False)}),
        structure=weights(),
        scope=everywhere(),
        schedule=geometric(density, halvings=halvings),
    )
