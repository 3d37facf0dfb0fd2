"""Network slimming: the scale of each channel's batch norm pays for its size, and the smallest channels go."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere, floored, sparing
from secateur.axes.structure import filters
from secateur.penalties import on_scales


def score(norm_scale: Tensor) -> Tensor:
    return norm_scale


def slimming(density: float, *, until: int, strength: float = 4e-3) -> Method:
    """Train with L1 on the scales γ of batch norms, then cut the channels whose |γ| are smallest in the network.

    Minimise L + s Σ|γ| until step `until` (∂|γ| = sign γ, 0 at 0). Then one ranking over the |γ| of all channels: the
    largest stay, at least one of each layer, and train on without the price.

    What is cut are the filters that make a channel, rows of the weight that feeds the norm. The norm stays: from a
    channel without filters it makes the constant β, which its reader takes as a bias. A layer whose output does not go
    into a batch norm, and nowhere else, stays whole and is not counted; a network without such a layer is refused.

    Args:
        density: the fraction of the normalised channels that stays.
        until: the step of the cut, and the last with the price.
        strength: s.

    Family: during training.
    Source: Liu et al., "Learning efficient convolutional networks through network slimming", arXiv 1708.06519, §3 and
    the authors' code.
    Deviates: β is left to train on, where the authors drop it with the channel and see accuracy collapse until
    fine-tuning; exactly κ channels stay; no layer is emptied. γ starts where the network has it (0.5 there). s is 1e-4
    there, for 160 epochs on CIFAR, and forty times that here, for an epoch or two of MNIST: lower it for long runs.
    """
    return method(
        "slimming",
        score,
        structure=filters(),
        scope=sparing(floored(everywhere(), at_least=1)),
        schedule=once(density, at=until),
        penalty=on_scales(strength),
    )
