"""Infinite feature selection: how much each feature of a set stands out, over paths of all lengths between them."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError


def infinite_selection(features: Tensor, *, alpha: float = 0.5, radius: float = 0.9) -> Tensor:
    """Score features by the energy of all paths through them (Inf-FS); one number per feature, higher is better.

    A_ij = α·max(σ_i, σ_j) + (1 − α)(1 − |ρ_ij|), σ the standard deviations scaled to [0, 1], ρ Spearman's rank
    correlation; with r = radius/ϱ(A) below the inverse of the spectral radius, all powers add up in closed form:
    score = Σ_{k≥1} (rA)^k 1 = ((I − rA)⁻¹ − I) 1.

    Args:
        features: one row per sample, one column per feature; T × n.
        alpha: α, how much spread counts beside being unlike the others.
        radius: the spectral radius of rA, below 1.

    Source: Roffo, Melzi & Cristani, "Infinite Feature Selection", ICCV 2015, §3 and eq. 8.
    Deviates: α = ½ is from memory. A feature that is constant correlates with none (ρ = 0). Ranks of equal values are
    averaged. Float64; O(T·n log T + n³).

    >>> infinite_selection(torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [2.0, 2.0, 5.0]])).argmax().item()
    2
    """
    if features.dim() != 2 or len(features) < 2:
        raise SecateurError(
            "`features` must have one row per sample, at least two, and one column per feature, got shape "
            f"{tuple(features.shape)}."
        )
    if not (0 <= alpha <= 1 and 0 < radius < 1):
        raise SecateurError(f"`alpha` must be in [0, 1] and `radius` in (0, 1), got {alpha} and {radius}.")
    values = features.double()
    adjacency = alpha * _spread(values) + (1 - alpha) * (1 - _spearman(values).abs())
    largest = float(torch.linalg.eigvalsh(adjacency).abs().max())
    ones = torch.ones(len(adjacency), dtype=torch.float64, device=values.device)
    if largest == 0:  # nothing varies, and all is alike
        return torch.zeros_like(ones)
    scaled = adjacency * (radius / largest)
    eye = torch.eye(len(scaled), dtype=torch.float64, device=values.device)
    return torch.linalg.solve(eye - scaled, ones) - ones


def _spread(values: Tensor) -> Tensor:
    deviation = values.std(0, correction=0)
    low, high = deviation.min(), deviation.max()
    scaled = (deviation - low) / (high - low) if bool(high > low) else torch.ones_like(deviation)
    return torch.maximum(scaled[:, None], scaled[None, :])


def _spearman(values: Tensor) -> Tensor:
    """Rank correlation of every pair of columns; 0 where a column is constant."""
    ranks = torch.stack([_ranks(column) for column in values.T], 1)
    centred = ranks - ranks.mean(0)
    norms = centred.norm(dim=0)
    unit = torch.where(norms > 0, centred / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0.0)
    return (unit.T @ unit).clamp(-1, 1)


def _ranks(column: Tensor) -> Tensor:
    """The rank of each entry from 0, equal ones sharing the mean of theirs."""
    _, inverse, counts = column.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() + 1) / 2)[inverse]
