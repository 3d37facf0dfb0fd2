"""The rescaling trick: survivors carry as much as all weights of their layer did."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import Measure

__all__ = ["Rescaled", "rescaled"]


@dataclass(frozen=True)
class Rescaled:
    """Multiply the survivors of each layer by one number (see `rescaled`)."""

    measures: tuple[Measure, ...] = ()
    always: bool = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        for name, mask in masks.items():
            weight = moment.params[name]
            whole, kept = weight.double().square().sum(), (weight.double() * mask.to(weight.device)).square().sum()
            if float(kept) > 0:
                weight.mul_((whole / kept).sqrt().to(weight.dtype))


def rescaled() -> Rescaled:
    """Multiply each layer's survivors by √(Σ w² / Σ (m ⊙ w)²): the mean over its outputs of Σ_in w² is the dense one.

    A network at the edge of chaos (`signals.edge_of_chaos_`) is there again after it was cut. A layer without
    survivors stays empty. That is so for masks that do not know the signal; survivors that were chosen by their
    sensitivity may carry more than others of their size.

    Source: Hayou, Ton, Doucet & Teh, arXiv 2002.08797, §3 (the rescaling trick: ρ_l = (E[N_{l−1} (W^l)² δ^l])^{−1/2},
    by the empirical mean).
    Deviates: back to the dense layer's own Σ w², where the paper's goes to that of its initialisation's law.
    """
    return Rescaled()
