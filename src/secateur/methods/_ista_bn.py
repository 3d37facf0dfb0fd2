"""ISTA on batch norm scales: soft thresholds after each step make exact zeros of channels, and those go."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import once
from secateur.axes.scope import floored, sparing, threshold
from secateur.axes.structure import filters
from secateur.penalties import scale_shrinkage

_ZERO = torch.finfo(torch.float32).tiny


def score(norm_scale: Tensor) -> Tensor:
    return norm_scale


def ista_bn(*, until: int, strength: float = 0.02) -> Method:
    """Drive scales γ of batch norms to exact zeros, and cut the channels that are constant then. The density emerges.

    After each step γ ← sign(γ)·max(|γ| − ηρ, 0), η the learning rate; at step `until` the channels with γ = 0 are cut,
    and the others train on without the price.

    A channel with γ = 0 is the constant β already, so that cutting its filters (rows of the weight that feeds the norm)
    changes nothing about the function: norm and β stay, and its reader takes β as a bias. A layer whose output does
    not go into a batch norm, and nowhere else, stays whole; a network without such a layer is refused. One channel of
    each layer stays at least.

    Args:
        until: the step of the cut, and the last with the price.
        strength: ρ; raise it until channels go.

    Family: during training.
    Source: Ye, Lu, Lin & Wang, "Rethinking the smaller-norm-less-informative assumption in channel pruning of
    convolution layers", arXiv 1802.00124, §4.
    Deviates: ρ is the same for every channel, where the paper weighs it by what the channel costs in memory; γ is
    trained by your optimizer, momentum included, where the authors take plain SGD; no rescaling of γ against the next
    weights before training; β is not folded away (it is exact only without zero padding). ρ is chosen on MNIST.
    """
    return method(
        "ista_bn",
        score,
        structure=filters(),
        scope=sparing(floored(threshold(_ZERO), at_least=1)),
        schedule=once(None, at=until),
        penalty=scale_shrinkage(strength),
    )
