"""A price on how far the weights of a layer lie from zero and from one another, by sorting instead of by pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import UnfitModelError
from secateur.axes.penalty import Penalty, check_strength


def balance(weight: Tensor) -> Tensor:
    """How many entries are smaller than each, less how many are larger: ∂/∂w_a of Σ_{a<b} |w_a − w_b|.

    By sorting, in O(n log n). Equal ones do not count, so that of weights that are all equal it is 0.

    >>> balance(torch.tensor([0.3, -1.0, 0.3, 2.0])).tolist()
    [0.0, -3.0, 0.0, 3.0]
    """
    flat = weight.detach().flatten()
    ordered = flat.sort().values
    smaller = torch.searchsorted(ordered, flat)
    larger = len(flat) - torch.searchsorted(ordered, flat, right=True)
    return (smaller - larger).to(weight.dtype).reshape(weight.shape)


@dataclass(frozen=True)
class DensityAndDiversity:
    """λ(Σ_a |w_a| + Σ_{a<b} |w_a − w_b|/(n − 1)) of one matrix of n weights."""

    strength: float

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        # Σ_a w_a · balance_a is the sum over pairs itself, and its gradient, while no two weights change places, too.
        pairs = (weight * balance(weight)).sum() / max(1, weight.numel() - 1)
        return self.strength * (weight.abs().sum() + pairs)


def density_and_diversity(strength: float, *, every: int = 1) -> Penalty:
    """λ(‖w‖₁ + the mean distance of each weight to the others) of every matrix; convolutions do not pay.

    >>> density_and_diversity(1.0).term("w", torch.tensor([[1.0, 3.0]]))
    tensor(6.)
    """
    check_strength(strength)
    return Penalty(f"density_and_diversity({strength:g})", DensityAndDiversity(strength), reach=matrices, every=every)


def matrices(network: nn.Module, params: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
    """The prunable matrices: linear and recurrent layers."""
    found = {name: parameter for name, parameter in params.items() if parameter.dim() == 2}
    if not found:
        raise UnfitModelError(
            "the density-diversity penalty is on fully connected and recurrent layers, and none of the prunable "
            f"tensors is a matrix: {', '.join(params)}. Take l1_penalty for convolutions."
        )
    return found
