"""Prices on the scales γ of batch norms, which say how much of a channel is passed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from secateur._base.errors import UnfitModelError
from secateur.axes.penalty import Penalty, SoftThreshold, check_strength
from secateur.measures import normalised


@dataclass(frozen=True)
class Size:
    """s‖γ‖₁, whose gradient is s·sign(γ), and 0 at 0."""

    strength: float

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        return self.strength * weight.abs().sum()


def on_scales(strength: float) -> Penalty:
    """s‖γ‖₁ of every batch norm that normalises the output of a prunable layer, as a loss term."""
    check_strength(strength)
    return Penalty(f"on_scales({strength:g})", Size(strength), reach=scales)


def scale_shrinkage(strength: float) -> Penalty:
    """γ ← sign(γ)·max(|γ| − ηλ, 0) after each step, for the same batch norms: zeros are exact."""
    check_strength(strength)
    return Penalty(f"scale_shrinkage({strength:g})", prox=SoftThreshold(strength), reach=scales)


def scales(network: nn.Module, params: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
    """The scale of the batch norm behind each prunable layer that has one, by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = normalised(network, params)
    if not found:
        raise UnfitModelError(
            f"none of the prunable layers of this {type(network).__name__} ({', '.join(params)}) feeds a batch norm, "
            "and to nothing else, with a scale: the method ranks units by that scale. Take l1_penalty or ssl, or put "
            "nn.BatchNorm2d behind the convolutions."
        )
    return {names[id(scale)]: scale for scale in found.values()}
