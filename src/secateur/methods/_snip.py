"""SNIP: connection sensitivity, measured once, before training."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import Scope, everywhere
from secateur.axes.structure import Structure, weights
from secateur.measures import Measure, grad


def score(weight: Tensor, grad: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(weight, grad, out=out).abs_()


def snip(
    density: float,
    *,
    evidence: Measure | None = None,
    scope: Scope | None = None,
    structure: Structure | None = None,
) -> Method:
    """Keep the connections to which the loss is most sensitive, from one mini-batch, before training.

    With an indicator c_j on every connection, L(c ⊙ w): g_j = ∂L/∂c_j at c = 1, which is w_j ∂L/∂w_j, and
    s_j = |g_j| / Σ_k |g_k|; the κ largest are kept. The denominator does not change the ranking and is left out here;
    `secateur.scores(..., normalise=True)` puts it in.

    Args:
        density: the fraction κ/m that stays.
        evidence: how the gradients of several batches combine: `measures.grad()` (|Σ_b g|, the default),
            `grad_magnitude()` (Σ_b |g|) or `grad_average(decay=…)`, the paper's exponential moving average.
        scope: who competes; the paper's is one global ranking.
        structure: what is kept or cut as one; single weights by default. `structure.blocks(4, 1)`, four outputs of
            one input, is what the sparse kernels run fastest. A unit's score is the sum Σ|g_j| over its weights.

    Family: at initialisation.
    Source: Lee, Ajanthan & Torr, ICLR 2019, arXiv 1810.02340, eqs. 5, 6 and Algorithm 1.
    Deviates: biases are neither counted nor pruned and the scored weights are the trained ones, as in later work. The
    authors' code counts biases (`structure.weights(biases=True)`; zero ones have score 0, so all are pruned), scores
    with BN's running statistics (`model.eval()` first), and trains a second draw (`reinit` afterwards). The paper knows
    single weights only; with another `structure` κ counts units, and one cut short at a layer's border scores what it
    has.

    >>> import torch
    >>> from torch import nn
    >>> from secateur import prune
    >>> from secateur.axes.structure import blocks
    >>> model, batch = nn.Linear(6, 8), (torch.ones(2, 6), torch.tensor([0, 1]))
    >>> masks = prune(model, snip(0.25, structure=blocks(4, 1)), [batch])
    >>> masks.kept, sorted(set(masks["weight"].view(2, 4, 6).sum(1).flatten().tolist()))
    (12, [0, 4])
    """
    return method(
        "snip",
        measured(score, {"grad": evidence or grad()}),
        structure=structure or weights(),
        scope=scope or everywhere(),
        schedule=once(density),
    )
