"""NISP: importance of the final responses, propagated back through the network to every unit."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import filters
from secateur.propagation import importance


def score(importance: Tensor) -> Tensor:
    return importance


def nisp(density: float, *, structure: Structure | None = None) -> Method:
    """Keep the units that the responses before the last layer owe most to, the same share of every layer.

    The responses are ranked by infinite feature selection on the data; their importance goes back through absolute
    weights, s_l = |W_{l+1}|ᵀ s_{l+1}, in one sweep in which units that will go pass nothing on (see
    `propagation.importance`). Of each layer the κ_l = ⌊ρN_l + ½⌋ most important units stay.

    Args:
        density: ρ, the fraction of each layer's units that stays.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied, and
            that the model's outputs stay.

    Family: after training.
    Source: Yu, Li, Chen, Lai, Morariu, Han, Gao, Lin & Davis, arXiv 1711.05908, §3.
    Deviates: batch norms pass importance on as they are (the paper has no rule); scaling by |γ|/σ kept less of what a
    trained pitch tracker is for. One density for all layers, where the paper gives each its own; layers whose units are
    tied pass on by their own choice before the tied one is made; the last layer's
    outputs compete unless left out with `only=` or tied by `structure`.
    """
    return method(
        "nisp",
        measured(score, {"importance": importance(keep=density)}),
        structure=structure or filters(),
        scope=layerwise(),
        schedule=once(density),
    )
