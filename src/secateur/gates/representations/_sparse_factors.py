"""A convolution as a basis of channels, bases of space, and sparse coefficients (Sparse CNN)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.axes.penalty import check_strength

_GONE = 1e-4  # coefficients below are zero, as the authors have it


class SparseFactors(Gate):
    """W[j, c, u] = Σ_i P[i, c] Σ_k S[i, k, j] Q[i, k, u]: P mixes channels, Q_i are q shapes of channel i, S is sparse.

    W is seen as [out, in, places of a kernel]; a linear layer has one place. P, Q and S begin at the principal
    components of the weight and are all trained. After each step rows of P and Q have length 1, with S scaled along,
    S takes a proximal step of λ₁Σ|S| + λ₂Σ over (i, k) of ‖S[i, k]‖₂, and coefficients below 1e-4 are zero. Weights
    that are zero when the gate is put up stay zero: the mask acts after the product.
    """

    own_trainer: ClassVar[bool] = True
    freezes: ClassVar[bool] = True
    mask: Tensor

    def __init__(self, parameter: nn.Parameter, settings: Factorings) -> None:
        super().__init__()
        self.settings = settings
        weight = parameter.detach().double()
        weight = weight.reshape(*weight.shape[:2], -1) if weight.dim() > 2 else weight[:, :, None]
        channels = _directions(weight.movedim(1, -1).reshape(-1, weight.shape[1]))  # [in, in]
        mixed = torch.einsum("jcu,ic->iju", weight, channels)
        shapes = torch.stack([_directions(each)[: settings.shapes] for each in mixed])  # [in, q, places]
        coefficients = torch.einsum("iju,iku->ikj", mixed, shapes)
        self.register_buffer("mask", parameter.detach() != 0)
        self.channels = nn.Parameter(channels.to(parameter.dtype))
        self.shapes = nn.Parameter(shapes.to(parameter.dtype))
        self.coefficients = nn.Parameter(coefficients.to(parameter.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        mixed = torch.einsum("ikj,iku->iju", self.coefficients, self.shapes)
        return torch.einsum("iju,ic->jcu", mixed, self.channels).reshape(weight.shape) * self.mask

    def after_step(self, weight: Tensor, lr: float) -> None:
        for atoms, across in ((self.channels, (1, 2)), (self.shapes, (2,))):
            length = atoms.norm(dim=-1).clamp(min=1e-12)
            atoms.div_(length[..., None])
            self.coefficients.mul_(length.reshape(*length.shape, *[1] * len(across)))
        own, settings = self.coefficients, self.settings
        own.copy_(own.sign() * (own.abs() - settings.rate * settings.strength).clamp(min=0))
        rows = own.norm(dim=-1, keepdim=True)
        own.mul_((1 - settings.rate * settings.row_strength / rows.clamp(min=1e-12)).clamp(min=0))
        own.mul_(own.abs() >= _GONE)

    def keep(self, weight: Tensor) -> Tensor:
        return self.mask

    def trainer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.settings.rate, momentum=0.9)

    @property
    def multiplications(self) -> int:
        """How many products one position of the output takes: |P| + Σ|Q| + the coefficients that are not zero."""
        return self.channels.numel() + self.shapes.numel() + int(self.coefficients.count_nonzero())


def _directions(rows: Tensor) -> Tensor:
    """All orthonormal directions of the rows' space, the most important first, [n, n]."""
    return torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(-1).T


@dataclass(frozen=True)
class Factorings:
    """Puts a `SparseFactors` on every weight."""

    strength: float
    row_strength: float
    shapes: int | None
    rate: float

    def __call__(self, name: str, parameter: nn.Parameter) -> SparseFactors:
        return SparseFactors(parameter, self)


def factoring(*, strength: float, row_strength: float, shapes: int | None = None, rate: float = 0.01) -> Factorings:
    """Bases with sparse coefficients: see `methods.sparse_factors`."""
    check_strength(strength, "strength")
    check_strength(row_strength, "row_strength")
    if shapes is not None and shapes < 1:
        raise SecateurError(f"`shapes` must be at least 1, or None for all of them, got {shapes}.")
    if not 0 <= rate < math.inf:
        raise SecateurError(f"`rate` of the factors must be at least 0 and finite, got {rate}.")
    return Factorings(strength, row_strength, shapes, rate)
