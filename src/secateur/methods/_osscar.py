"""OSSCAR: groups of inputs removed by their exact cost to the layer's outputs, with swaps, and weights fitted anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes import Method, Repair, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import columns
from secateur.repairs import channels_of, damped, group_removal, least_squares_on
from secateur.selection import kept_count


@dataclass(frozen=True)
class Removal:
    """The score: when each input goes, and above that what swaps brought in."""

    density: float
    swaps: int
    damping: float

    def __call__(self, weight: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
        if gram.dim() == 3:
            raise SecateurError("osscar has no form for grouped convolutions. Leave the layer out with `only=`.")
        channels = channels_of(weight, rows)
        moments, dead = damped(gram, self.damping)
        keep = max(1, kept_count(self.density, channels))
        order = group_removal(rows.masked_fill(dead, 0), moments, channels, keep=keep, swaps=self.swaps)
        return torch.where(dead.reshape(channels, -1).all(1), -1.0, order)


def osscar(density: float, *, swaps: int = 30, damping: float = 0.01, repair: Repair | None = None) -> Method:
    """Remove the inputs of each layer that its outputs miss least when all others make up for them, one after another.

    argmin_g ½ tr(W_g ([H⁻¹]_gg)⁻¹ W_gᵀ), H = X Xᵀ + λI; W and H⁻¹ are brought up to date after each. Then inputs are
    exchanged as long as the error falls, and the weights on what is left are fitted by least squares. Needs inputs
    alone. Its masks are columns (neurons that feed a linear layer, channels that feed a convolution);
    `shrink(model, masks, example)` takes what made them along. Leave the first layer out with `only=`.

    Args:
        density: the fraction of each layer's inputs that stays.
        swaps: exchanges at most, for each layer.
        damping: λ as a share of the mean of the diagonal of X Xᵀ.
        repair: what the survivors do; least squares by default.

    Family: after training.
    Source: Meng, Ibrahim, Behdin, Hazimeh, Ponomareva & Mazumder, "OSSCAR", arXiv 2403.12983, §3.
    Deviates: one input at a time, where the authors remove ten neurons or two heads at once; groups are single inputs
    of a linear layer, and channels of a convolution, not heads.
    """
    if swaps < 0:
        raise SecateurError(f"`swaps` must be at least 0, got {swaps}.")
    return method(
        "osscar",
        measured(Removal(density, swaps, damping)),
        structure=columns(),
        scope=layerwise(),
        schedule=once(density),
        repair=repair or least_squares_on(damping=damping),
    )
