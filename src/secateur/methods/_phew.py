"""PHEW: paths with higher edge weights, a network of random walks that prefer large weights."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.signals import walks


def score(walks: Tensor) -> Tensor:
    return walks


def phew(density: float) -> Method:
    """Keep the weights that random walks from inputs to outputs come by, which prefer large weights; without data.

    A walk starts at each input in turn, every second one backwards at each output, and goes from unit j to unit i with
    probability |w_ij| / Σ_i |w_ij|. Weights are kept as walks come by them until there are κ: every one lies on a path
    from an input to an output, so the effective density is the density. Only the shape of one batch is used.

    Family: at initialisation.
    Source: Patil & Dovrolis, ICML 2021, arXiv 2010.11354, §4.
    Deviates: exactly κ stay (the authors go beyond by less than a walk): at the end walks are looked for that bring no
    more new weights than are wanted. A density that walks would take for ever to fill ends with the largest of the
    others. Chains of layers only, and where a residual sum offers a way around a layer, it is not taken.
    """
    return method(
        "phew",
        measured(score, {"walks": walks(keep=density)}),
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
    )
