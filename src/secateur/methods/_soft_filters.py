"""SFP: soft filter pruning; filters are zeroed time and again, and grow again in between."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, method
from secateur.axes.regrow import soft
from secateur.axes.schedule import repeated
from secateur.axes.scope import convolutions, layerwise
from secateur.axes.structure import filters


def score(weight: Tensor) -> Tensor:
    return weight.square()


def soft_filters(density: float, *, until: int, every: int = 500, scope: Scope | None = None) -> Method:
    """Set the weakest filters to zero before training and every so often, and let them learn on: a mistake is undone.

    At step 0, every ΔT steps, and for good at T, each convolution l keeps its κ_l = ⌊ρN_l + ½⌋ filters of the largest
    ‖F‖₂; the others become zero. Until T they go on training from there, with all that is in the optimizer.

    Args:
        density: ρ, the fraction of each convolution's N_l filters that stays.
        until: T, the step of the last cut, which is held from then on; the paper cuts at the end of training.
        every: ΔT; the paper takes an epoch.
        scope: who competes; `convolutions(layerwise())` by default, so that other layers stay whole. `layerwise()` cuts
            the outputs of linear layers too: leave the last one out with `only=`.

    Alias: sfp.
    Family: during training.
    Source: He, Kang, Dong, Fu & Yang, IJCAI 2018, arXiv 1808.06866, §3 and Algorithm 1; the code's `rate` is ρ.
    Deviates: weights alone are zeroed, as in the code: a filter's bias, and the γ, β and statistics of a batch norm
    behind it, stay and train on, so that a cut filter still puts out a constant; one
    whose constant a ReLU turns to zero gets no gradient and does not come back; shortcut convolutions take part,
    which the code leaves out by their number in the network.
    """
    return method(
        "soft_filters",
        score,
        structure=filters(),
        scope=scope or convolutions(layerwise()),
        schedule=repeated(density, every=every, until=until),
        regrow=soft(),
    )
