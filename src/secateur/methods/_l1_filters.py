"""L1 filters: the filters whose weights are small in sum are the first to go."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, Structure, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import filters
from secateur.propagation import greedy_norms


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def of_what_is_left(norms: Tensor) -> Tensor:
    return norms


def l1_filters(
    density: float, *, greedy: bool = False, scope: Scope | None = None, structure: Structure | None = None
) -> Method:
    """Keep the filters of the largest L1 norm, s_j = Σ|F_j|, the same share of every layer.

    Args:
        density: the fraction of each layer's filters that stays.
        greedy: leave out of the sums the kernels of inputs that are gone with filters of the layers before, layer by
            layer in the model's order (`propagation.greedy_norms`); it needs an input, of which only the shape is used.
        scope: who competes; each layer for itself by default.
        structure: the units; rows of each weight by default. `shrink` and `structure.channels` know what is tied.

    Family: after training.
    Source: Li, Kadav, Durdanovic, Samet & Graf, arXiv 1608.08710, §3.1.
    Deviates: units that several layers make are ranked by all of them, where the paper lets the shortcut's projection
    decide. Which layers are sensitive and skipped, the authors choose net by net: narrow with `only=`.
    """
    return method(
        "l1_filters",
        measured(of_what_is_left, {"norms": greedy_norms(keep=density)}) if greedy else score,
        structure=structure or filters(),
        scope=scope or layerwise(),
        schedule=once(density),
    )
