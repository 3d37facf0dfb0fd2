"""Channel pruning by LASSO (He et al. 2017): few input channels that say a layer's outputs, then all weights anew."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.axes import Method, Repair, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import columns
from secateur.repairs import channels_of, contributions, lasso_columns, least_squares_on
from secateur.selection import kept_count


@dataclass(frozen=True)
class Lasso:
    """The score: |β| of each input channel at the λ that keeps as many as asked for."""

    density: float

    def __call__(self, weight: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
        channels = channels_of(weight, rows)
        return lasso_columns(contributions(rows, gram, channels), max(1, kept_count(self.density, channels)))


def channel_lasso(density: float, *, repair: Repair | None = None) -> Method:
    """Choose the input channels of each layer by LASSO on its outputs, then fit the weights that read them.

    min_β ½‖Y − Σ_j β_j X_j W_jᵀ‖² + λ‖β‖₁ with W fixed, λ such that the wanted number of β is not 0; then W by least
    squares on those. Needs inputs alone. Its masks are columns; `shrink(model, masks, example)` takes the filters that
    made them along. The first layer's inputs are the data: leave it out with `only=`.

    Args:
        density: the fraction of each layer's input channels that stays.
        repair: what the survivors do; `repairs.least_squares_on()` by default.

    Family: after training.
    Source: He, Zhang & Sun, "Channel pruning for accelerating very deep neural networks", arXiv 1707.06168, §3.1.
    Deviates: exactly as many channels as asked for, where the authors' code takes up to a tenth more; all positions by
    their second moments instead of a sample drawn with replacement; no intercept; inputs of the dense network, where
    the authors take those of the network pruned so far; no special treatment of residual branches.
    """
    return method(
        "channel_lasso",
        measured(Lasso(density)),
        structure=columns(),
        scope=layerwise(),
        schedule=once(density),
        repair=repair or least_squares_on(damping=1e-4),
    )
