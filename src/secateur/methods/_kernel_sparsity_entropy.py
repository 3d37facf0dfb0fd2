"""KSE: input channels are worth what their kernels weigh, less if those are all alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes import Method, Scope, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import layerwise
from secateur.axes.structure import columns
from secateur.measures import kernels as as_kernels


@dataclass(frozen=True)
class Indicator:
    """v of each input channel of a layer, from its kernels [N, C, positions]."""

    alpha: float
    nearest: int

    def __call__(self, kernels: Tensor) -> Tensor:
        weight = kernels.double()
        sparsity = weight.abs().sum((0, 2))
        entropy = torch.stack([self._entropy(weight[:, channel]) for channel in range(weight.shape[1])])
        return _scaled((_scaled(sparsity) / (1 + self.alpha * _scaled(entropy, flat=0.0))).sqrt())

    def _entropy(self, kernels: Tensor) -> Tensor:
        """−Σ p log₂ p with p_n ∝ the distance of kernel n to its k nearest; 0 where all are the same."""
        near = min(self.nearest, len(kernels) - 1)
        apart = torch.cdist(kernels, kernels, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
        density = apart.topk(near, dim=1, largest=False).values.sum(1)
        return torch.special.entr(density / density.sum().clamp(min=torch.finfo(density.dtype).tiny)).sum() / _LN2


_LN2 = 0.6931471805599453


def _scaled(values: Tensor, *, flat: float = 1.0) -> Tensor:
    """To [0, 1]; where all are equal, `flat`: a layer whose channels are all alike loses none."""
    low, high = values.min(), values.max()
    return torch.full_like(values, flat) if high == low else (values - low) / (high - low)  # NaN stays NaN


def kernel_sparsity_entropy(
    density: float, *, alpha: float = 1.0, nearest: int = 5, scope: Scope | None = None
) -> Method:
    """Keep the input channels with the largest v = √(s/(1 + αe)), and all that reads them.

    Of channel c with kernels W_nc, n = 1…N: s_c = Σ_n ‖W_nc‖₁; e_c = −Σ_n p_n log₂ p_n, p_n ∝ the sum of distances of
    W_nc to its k nearest. s, e and v are each brought to [0, 1] over the channels of a layer. Many kernels that are
    spread evenly (large e) can be said by few.

    The paper goes on from v to fewer kernels a channel, with an index: `replacing.cluster_kernels`.

    Args:
        density: the fraction of each layer's input channels that stays.
        alpha: α, the weight of the entropy.
        nearest: k; of fewer than k + 1 kernels, all others.
        scope: who competes; each layer for itself by default.

    Family: after training.
    Source: Li et al., "Exploiting kernel sparsity and entropy for interpretable CNN compression", arXiv 1812.04368,
    §3.2 and §3.3.
    Deviates: the authors' code takes the entropy of a reshaped array: for layers of as many inputs as outputs that of
    output filters, else of a mixture; here it is the equation's. Channels that are all alike (0/0 there) are all worth
    1, equal kernels have no entropy. As a mask, channels stay whole or go whole.
    """
    if not 0 <= alpha < torch.inf or nearest < 1:
        raise SecateurError(f"`alpha` must be at least 0 and `nearest` at least 1, got {alpha} and {nearest}.")
    score = measured(Indicator(alpha, nearest), {"kernels": as_kernels()})
    return method(
        "kernel_sparsity_entropy", score, structure=columns(), scope=scope or layerwise(), schedule=once(density)
    )
