"""Learning the number of neurons: a price on each neuron's norm, paid in proximal steps that make exact zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes import Method, Structure, method
from secateur.axes.schedule import once
from secateur.axes.scope import floored, threshold
from secateur.axes.structure import filters
from secateur.penalties import group_shrinkage

_ZERO = torch.finfo(torch.float32).tiny


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def learning_neurons(
    *,
    until: int,
    strength: float = 2e-3,
    alpha: float = 0.0,
    every: int = 10,
    structure: Structure | None = None,
) -> Method:
    """Train with group lasso on neurons, whose proximal step leaves some exactly zero, and cut those. Density emerges.

    r(w) = λ Σ_n ((1 − α)√P ‖w_n‖₂ + α‖w_n‖₁), P the weights of a neuron. Every few steps w ← soft(w, tλα), then
    w_n ← [1 − tλ(1 − α)√P/‖w_n‖₂]₊ w_n. At step `until` neurons of zeros are cut, the others train on without price.

    Args:
        until: the step of the cut, and the last with the price; rounded down to one that takes a proximal step, since
            what is dead may stir between two of them.
        strength: λ, per step of the optimizer.
        alpha: α; 0 is group lasso, above it sparse group lasso (the paper's is 0.5), 1 is L1.
        every: steps between two proximal steps; t is their number times the learning rate, so that λ means the same.
        structure: the groups; whole neurons or filters by default.

    Family: during training.
    Source: Alvarez & Salzmann, "Learning the number of neurons in deep networks", arXiv 1611.06321, eqs. 3 to 6, from
    memory.
    Deviates: the bias is not in the group. The paper takes one proximal step an epoch, of one learning rate, with λ
    between 0.1 and 0.26: that is λ/(steps of an epoch) here. At least one neuron of every layer stays. λ is chosen on
    MNIST.
    """
    groups = structure or filters()
    if not 1 <= every <= until:
        raise SecateurError(
            f"`every` must be at least 1 and at most until={until}, got {every}: no step would be taken."
        )
    return method(
        "learning_neurons",
        score,
        structure=groups,
        scope=floored(threshold(_ZERO), at_least=1),
        schedule=once(None, at=until - until % every),
        penalty=group_shrinkage(strength, groups, alpha=alpha, every=every),
    )
