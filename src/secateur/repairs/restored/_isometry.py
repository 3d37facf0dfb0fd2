"""Approximate isometry restored: survivors are moved until each layer, masked, is orthogonal as nearly as it can be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import Measure

__all__ = ["Isometric", "isometric"]


@dataclass(frozen=True)
class Isometric:
    """Move the survivors by gradient descent (see `isometric`)."""

    iterations: int
    rate: float
    measures: tuple[Measure, ...] = ()
    always: bool = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        for name, mask in masks.items():
            weight = moment.params[name]
            if weight.dim() < 2:
                continue
            bits = moment.canonical(name, mask.to(weight.device))
            matrix, keeps = moment.canonical(name, weight.detach()).flatten(1), bits.flatten(1)
            found = self._moved(matrix * keeps, keeps).to(weight.dtype)
            weight.copy_(moment.stored(name, found.reshape(bits.shape)))

    def _moved(self, matrix: Tensor, keeps: Tensor) -> Tensor:
        w, best, least = matrix.clone(), matrix, float("inf")
        eye = torch.eye(min(w.shape), dtype=w.dtype, device=w.device)
        for _ in range(self.iterations + 1):
            wide = w.shape[0] <= w.shape[1]
            gap = (w @ w.T if wide else w.T @ w) - eye
            distance = float(torch.linalg.matrix_norm(gap))
            if distance < least:
                best, least = w.clone(), distance
            if distance == 0:
                break
            slope = (gap @ w if wide else w @ gap) * (2 / distance)
            w -= self.rate * slope * keeps
        return best


def isometric(*, iterations: int = 1000, rate: float = 0.1) -> Isometric:
    """Bring the singular values of each masked layer near 1: min ‖(C⊙W)(C⊙W)ᵀ − I‖_F over the survivors.

    By gradient descent on the norm itself (not its square), layer by layer, a kernel as a matrix [out, in · kernel]; of
    all steps the best is kept, so that no layer is left worse than it was. Masks stay as they are.

    Args:
        iterations: steps; the authors take 10,000.
        rate: η.

    Raises:
        SecateurError: `iterations` or `rate` is not positive.

    Source: Lee, Ajanthan, Gould & Torr, arXiv 1906.06307, §5, eq. 11, and the authors' code.
    Deviates: the Gram matrix of the shorter side of each matrix, which alone can become the identity; the authors take
    that of the outputs.
    """
    if iterations < 1:
        raise SecateurError(f"`iterations` must be at least 1, got {iterations}.")
    if not rate > 0:
        raise SecateurError(f"`rate` must be positive, got {rate}.")
    return Isometric(iterations, rate)
