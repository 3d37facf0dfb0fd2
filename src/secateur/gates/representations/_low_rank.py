"""Rows of a weight predicted from a few of their entries, or from a few directions (Denil et al.)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate

#: (name of a weight, it as [out, n]) → the kernel [n, n] of its n inputs, or None for the weight's own directions.
Kernel = Callable[[str, Tensor], Tensor | None]


def squared_exponential(*shape: int, length: float) -> Tensor:
    """Return the kernel k(p, q) = exp(−‖p − q‖² / 2ℓ²) on the points of a grid: near inputs have like weights.

    Args:
        *shape: of the grid, as 28, 28: rows and columns of the pixels that a first layer sees.
        length: ℓ, in steps of the grid.

    Returns:
        [n, n], float64, n the number of points, in the order in which images are flattened.

    Source: Denil et al., arXiv 1306.0543.

    >>> squared_exponential(3, length=1.0)[0].tolist()
    [1.0, 0.6065306597126334, 0.1353352832366127]
    """
    if not shape or min(shape) < 1 or not length > 0:
        raise SecateurError(f"a kernel needs a grid of at least one point and length > 0, got {shape} and {length}.")
    axes = [torch.arange(size, dtype=torch.float64) for size in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    return torch.exp(-(points[:, None] - points[None]).square().sum(-1) / (2 * length**2))


class LowRank(Gate):
    """W = V Uᵀ with U [n, r] fixed and V [out, r] trained, W seen as [out, n].

    With a kernel K of the n inputs, V are the entries of W at r places α, and U = K_{·α}(K_αα + λI)⁻¹ predicts the
    others. Without one, U are the r right singular vectors of the weight with the largest singular values.
    Weights that are zero when the gate is put up stay zero: the mask acts after the prediction.
    """

    freezes: ClassVar[bool] = True
    dictionary: Tensor
    mask: Tensor

    def __init__(self, parameter: nn.Parameter, settings: LowRanks, name: str) -> None:
        super().__init__()
        rows = parameter.detach().flatten(1).double()
        size = rows.shape[1]
        rank = max(1, min(size, round(settings.share * size)))
        kernel = None if settings.kernel is None else settings.kernel(name, rows)
        if kernel is None:
            dictionary = torch.linalg.svd(rows, full_matrices=False).Vh[:rank].T
            values = rows @ dictionary
        else:
            places = _places(size, rank, rows.device)
            dictionary = _predictor(_checked(kernel.to(rows), size, name), places, settings.ridge)
            values = rows[:, places]
        self.register_buffer("dictionary", dictionary.to(parameter.dtype).contiguous())
        self.register_buffer("mask", parameter.detach() != 0)
        self.values = nn.Parameter(values.to(parameter.dtype).contiguous())

    def forward(self, weight: Tensor) -> Tensor:
        return (self.values @ self.dictionary.T).reshape(weight.shape) * self.mask

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask


def _places(size: int, rank: int, device: torch.device) -> Tensor:
    """Which entries are learned: drawn at random, in order."""
    return torch.randperm(size, device="cpu")[:rank].sort().values.to(device)


def _predictor(kernel: Tensor, places: Tensor, ridge: float) -> Tensor:
    """K_{·α}(K_αα + λI)⁻¹, [n, r]."""
    chosen = kernel[places][:, places]
    within = chosen + ridge * torch.eye(len(places), dtype=kernel.dtype, device=kernel.device)
    solved = torch.linalg.lstsq(within, kernel[places]) if ridge == 0 else None
    return solved.solution.T if solved is not None else torch.linalg.solve(within, kernel[places]).T


def _checked(kernel: Tensor, size: int, name: str) -> Tensor:
    if kernel.shape != (size, size) or not bool(torch.isfinite(kernel).all()):
        raise SecateurError(
            f"`kernel` of {name!r} must be finite and of shape {(size, size)}, one row for each input of a unit, got "
            f"{tuple(kernel.shape)}."
        )
    return kernel


@dataclass(frozen=True)
class LowRanks:
    """Puts a `LowRank` on every weight."""

    share: float
    kernel: Kernel | None
    ridge: float

    def __call__(self, name: str, parameter: nn.Parameter) -> LowRank:
        return LowRank(parameter, self, name)


def low_ranks(*, share: float, kernel: Kernel | None = None, ridge: float = 1e-6) -> LowRanks:
    """Rows predicted from a share of their entries: see `methods.low_rank`."""
    if not 0 < share <= 1 or ridge < 0:
        raise SecateurError(f"low rank needs 0 < share <= 1 and ridge >= 0, got share={share} and ridge={ridge}.")
    return LowRanks(share, kernel, ridge)
