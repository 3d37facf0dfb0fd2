"""Whole inputs of a layer: which may go, by what they add to its outputs together, and what makes up for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Float
from secateur.repairs._second_moments import damped
from secateur.repairs._solve import LayerByLayer, groups, told

__all__ = [
    "Columns",
    "channels_of",
    "contributions",
    "greedy_columns",
    "lasso_columns",
    "mixed_columns",
    "rescaled_columns",
    "reused",
    "scaled",
]

_SWEEPS = 500
_HALVINGS = 40
_LEAST = 1e-4  # of the λ at which nothing is left: below it there is no choice worth the name
_REST = 1e-9  # a move of so small a share is none


def channels_of(weight: Tensor, rows: Tensor) -> int:
    """How many inputs a layer has: channels of a convolution (of one group), columns of a linear layer."""
    return weight.shape[1] if weight.dim() > 2 else rows.shape[1]


def contributions(
    rows: Float[Tensor, "out entries"], moments: Tensor, channels: int
) -> Float[Tensor, "channels channels"]:
    """M_jk = ⟨x̂_j, x̂_k⟩, x̂_j what input j contributes to all outputs at all places: Σ_jk M_jk is the outputs' ‖·‖².

    With x̂_j = W_j X_j, M is (WᵀW) ∘ G summed over the taps of each pair of inputs: nothing but second moments is
    needed. Of a grouped convolution, `moments` is (groups, d, d), and groups add up. Float64.

    Raises:
        SecateurError: moments that are not finite.
    """
    if not bool(torch.isfinite(moments).all()):
        raise SecateurError(
            "the second moments of a layer's inputs are not finite: look for NaN among its activations."
        )
    found = torch.zeros(channels, channels, dtype=torch.float64, device=rows.device)
    for own, second in groups(rows.double(), moments.double()):
        taps = own.shape[1] // channels
        found += ((own.T @ own) * second).reshape(channels, taps, channels, taps).sum((1, 3))
    return found


def greedy_columns(products: Float[Tensor, "channels channels"]) -> Float[Tensor, " channels"]:
    """When each input goes if always that one goes next that keeps ‖Σ_T x̂_j‖² of the removed set T smallest; from 0.

    Source: Luo, Wu & Lin, "ThiNet", arXiv 1707.06342, Algorithm 1.

    >>> parts = torch.tensor([[3.0], [-2.0], [2.5]], dtype=torch.float64)  # the second and the third nearly cancel
    >>> greedy_columns(parts @ parts.T)
    tensor([2., 0., 1.], dtype=torch.float64)
    """
    count = len(products)
    cost, left = products.diagonal().clone(), torch.ones(count, dtype=torch.bool, device=products.device)
    order = torch.zeros(count, dtype=torch.float64, device=products.device)
    for step in range(count):
        best = int(torch.where(left, cost, torch.inf).argmin())
        order[best], left[best] = step, False
        cost += 2 * products[best]
    return order


def lasso_columns(products: Float[Tensor, "channels channels"], keep: int) -> Float[Tensor, " channels"]:
    """Worth of each input by min_β ½‖Y − Σ β_j x̂_j‖² + λ‖β‖₁ at the largest λ that leaves `keep` of them, or more.

    |β_j|·‖x̂_j‖ and more than any other where β_j ≠ 0, so that the `keep` best are a part of the solution; of the others
    their correlation with what is left over. λ is found by halving the interval of its logarithm, down to 1e-4 of the
    largest; coordinates descend in turn.

    Source: He, Zhang & Sun, arXiv 1707.06168, eq. 3.
    """
    norms = products.diagonal().clamp(min=0).sqrt()
    target = products.sum(1)  # ⟨x̂_j, Y⟩
    high = float(target.abs().max())
    low = _LEAST * high
    beta = torch.zeros_like(target) if keep < len(target) else torch.ones_like(target)
    if keep < len(target):
        beta = _lasso(products, target, low, beta)
        tried = torch.zeros_like(target)
        for _ in range(_HALVINGS if int((beta != 0).sum()) > keep else 0):
            level = math.sqrt(low * high)
            tried = _lasso(products, target, level, tried)
            if int((tried != 0).sum()) >= keep:
                low, beta = level, tried
                if int((tried != 0).sum()) == keep:
                    break
            else:
                high = level
    rest = (target - products @ beta).abs() / norms.clamp(min=torch.finfo(torch.float64).tiny)
    rest = rest / (1 + rest.max())
    chosen = beta != 0
    return torch.where(chosen, 1 + beta.abs() * norms, rest)


def _lasso(products: Tensor, target: Tensor, level: float, start: Tensor) -> Tensor:
    """Coordinates in turn: all of them, then those that are not 0 until they rest, and again until none moves."""
    matrix, beta, size = products.cpu().numpy(), start.cpu().numpy().copy(), products.diagonal().cpu().numpy()
    slope = target.cpu().numpy() - matrix @ beta
    norms, rest = np.sqrt(np.maximum(size, 0)), _REST * float(target.abs().max()) ** 0.5

    def sweep(places: np.ndarray) -> float:
        largest = 0.0
        for j in places:
            wanted = slope[j] + size[j] * beta[j]
            change = np.sign(wanted) * max(abs(wanted) - level, 0.0) / size[j] - beta[j]
            if change:
                beta[j] += change
                slope[:] -= change * matrix[j]
                largest = max(largest, float(abs(change) * norms[j]))
        return largest

    every = np.flatnonzero(size > 0)
    left = _SWEEPS
    while left > 0 and sweep(every) > rest:
        left -= 1
        while left > 0 and sweep(np.flatnonzero(beta)) > rest:
            left -= 1
    said = np.abs(beta) * norms
    beta[said <= 1e-6 * said.max(initial=0.0)] = 0.0  # of two alike one is enough, and the other is rounding
    return torch.from_numpy(beta).to(products.device)


# --- repairs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns(LayerByLayer):
    """Let the inputs that stay make up for those that are gone, in each layer: see `rescaled_columns`."""

    damping: float = 1e-6

    def part(self, name: str, inside: torch.Size, rows: Tensor, moments: Tensor, keep: Tensor) -> Tensor:
        """The rows on the inputs of which anything is kept."""
        stays = keep.unflatten(1, (inside[0], -1)).any(2).any(0)
        return told(name, self.solve, rows.double(), stays, moments.double(), self.damping)


# (rows, which inputs stay, G, damping) → rows of the same shape, on the inputs that stay


def scaled(rows: Tensor, stays: Tensor, moments: Tensor, damping: float) -> Tensor:
    """One factor for each input that stays, by least squares: M_SS s = M_S: 1, damped towards factors of 1."""
    products = contributions(rows, moments, len(stays))
    own, dead = damped(products, damping)
    here = (stays & ~dead).nonzero().flatten()
    factors = torch.ones(len(stays), dtype=torch.float64, device=rows.device)
    if len(here):
        missing = products[here][:, ~stays].sum(1)
        factors[here] += torch.linalg.solve(own[here[:, None], here], missing)
    return rows * factors.repeat_interleave(rows.shape[1] // len(stays))


def reused(rows: Tensor, stays: Tensor, moments: Tensor, damping: float) -> Tensor:
    """Each input that is gone as a mixture of those that stay, x_d ≈ Σ_k A_dk x_k at every place, in the weights."""
    channels, taps = len(stays), rows.shape[1] // len(stays)
    by_tap = moments.reshape(channels, taps, channels, taps).diagonal(dim1=1, dim2=3).sum(-1)
    own, _ = damped(by_tap, damping)
    kept, gone = stays.nonzero().flatten(), (~stays).nonzero().flatten()
    parts = rows.reshape(len(rows), channels, taps).clone()
    if len(kept) and len(gone):
        mixture = torch.linalg.solve(own[kept[:, None], kept], by_tap[kept[:, None], gone])  # (kept, gone)
        parts[:, kept] += torch.einsum("kd,odt->okt", mixture, parts[:, gone])
    return parts.reshape(rows.shape)


def rescaled_columns(*, damping: float = 1e-6) -> Columns:
    """Scale each input that stays by least squares: s = argmin ‖Y − Σ_{j∈S} s_j x̂_j‖², folded into its weights.

    Args:
        damping: λ as a share of the mean of the diagonal of M (`contributions`).

    Source: Luo, Wu & Lin, "ThiNet", arXiv 1707.06342, eq. 7.
    """
    return Columns(scaled, damping)


def mixed_columns(*, damping: float = 1e-6) -> Columns:
    """Express each input that is gone by those that stay, x_d ≈ Σ_k A_dk x_k, and fold the mixture A into the weights.

    A is the 1×1 convolution between the layer before and this one; nothing stands between, so that W_k + Σ_d W_d A_dk
    is exactly the same. A needs the moments of inputs at one and the same place: those of the patches, tap by tap.

    Args:
        damping: λ as a share of the mean of the diagonal.

    Source: Polyak & Wolf, IEEE Access 3, 2015 ("reduce and reuse"), from memory.
    """
    return Columns(reused, damping)
