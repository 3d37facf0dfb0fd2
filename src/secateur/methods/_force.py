"""FORCE and Iter-SNIP: progressive skeletonisation, the sensitivity of the network after pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.regrow import revive
from secateur.axes.schedule import exponential
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.measures import grad


def score(weight: Tensor, grad: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(weight, grad, out=out).abs_()


def force(density: float, *, rounds: int = 60, train: bool | None = None) -> Method:
    """Prune step by step to the network whose own connections are most sensitive; pruned weights may return.

    c_t = the κ_t largest of |θ ⊙ ∇L(θ ⊙ c_{t−1})|, θ the dense weights, κ_t = N·ρ^{t/T} for t = 1…T (`rounds`).
    One round is SNIP.

    Args:
        density: the fraction that stays at the end.
        rounds: T; the paper uses 60, the authors' code defaults to 10.
        train: mode while scoring (None: as found; the authors' code scores in train mode).

    Family: at initialisation.
    Source: de Jorge et al., arXiv 2006.09081, §4.2, eq. 9 and Algorithm 1.
    Deviates: the authors' code scores with nll_loss on raw logits and compares with a threshold, so that vanishing
    gradients keep everything; here the loss is the training loss and exactly κ_t weights stay.
    """
    return method(
        "force",
        measured(score, {"grad": grad(train=train)}),
        structure=weights(),
        scope=everywhere(),
        schedule=exponential(density, rounds=rounds),
        regrow=revive(),
    )


def iter_snip(density: float, *, rounds: int = 60, train: bool | None = None) -> Method:
    """SNIP repeated along an exponential schedule, scoring the pruned network each time; pruned weights stay pruned.

    c_t = the κ_t largest of |θ̄ ⊙ ∇L(θ̄)| with θ̄ = θ ⊙ c_{t−1}; masks are nested. One round is SNIP.

    Family: at initialisation.
    Source: de Jorge et al., arXiv 2006.09081, §4.3.
    Deviates: as `force`; and unlike Synaptic-Flow's iterated SNIP, no weight revives.
    """
    return method(
        "iter_snip",
        measured(score, {"grad": grad(train=train)}),
        structure=weights(),
        scope=everywhere(),
        schedule=exponential(density, rounds=rounds),
    )
