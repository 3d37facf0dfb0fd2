"""ThiNet: inputs go whose contributions to the layer's outputs, taken together, come nearest to nothing."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Repair, Scope, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import columns
from secateur.repairs import channels_of, contributions, greedy_columns, rescaled_columns


def score(weight: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
    return greedy_columns(contributions(rows, gram, channels_of(weight, rows)))


def thinet(density: float, *, scope: Scope | None = None, repair: Repair | None = None) -> Method:
    """Remove input channels whose summed contribution to a layer's outputs stays smallest, then scale what is left.

    x̂_j is what input channel j adds to the outputs. The removed set T grows greedily by argmin ‖Σ_{j∈T} x̂_j‖²; then
    s = argmin ‖Y − Σ_{j∈S} s_j x̂_j‖² is folded into the weights that read what stays. Needs inputs alone.

    Its masks are columns of what reads; `shrink(model, masks, example)` takes the filters that made them along. The
    first layer's inputs are the data: leave it out with `only=`, or what it reads is thinned as well.

    Args:
        density: the fraction of each layer's input channels that stays.
        scope: who competes; only places in each layer's own order are compared: each for itself by default.
        repair: what the survivors do; the factors s by default. `repairs.least_squares_on()` refits all their weights.

    Family: after training.
    Source: Luo, Wu & Lin, "ThiNet", arXiv 1707.06342, §3.2, Algorithm 1 and eq. 7.
    Deviates: all outputs and positions of the batches instead of ten of each of ten images a class: they are in the
    second moments. All layers are looked at in the dense network, where the paper prunes and fine-tunes one by one. In
    a linear layer behind a flattening a channel is one entry.
    """
    return method(
        "thinet",
        score,
        structure=columns(),
        scope=scope or layerwise(),
        schedule=once(density),
        repair=repair or rescaled_columns(),
    )
