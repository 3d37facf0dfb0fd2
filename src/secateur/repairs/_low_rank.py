"""Weights removed under F = λI + (1/N) Σ g gᵀ in blocks of a tensor's entries, never formed where N is small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import SecateurError
from secateur._base.types import Float
from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import Measure
from secateur.repairs._solve import told

__all__ = ["BlockCost", "LowRank", "block_inverse"]

_AT_ONCE = 1 << 25  # numbers of gradients that are in float64 at once


def block_inverse(
    grads: Float[Tensor, "blocks samples entries"], damping: float, columns: Float[Tensor, "blocks entries some"]
) -> Float[Tensor, "blocks entries some"]:
    """F⁻¹ times columns, F = λI + (1/N) GᵀG of each block, G its gradients: by Woodbury where N is the smaller side.

    F⁻¹ = λ⁻¹ (I − Gᵀ (NλI + GGᵀ)⁻¹ G).

    Args:
        grads: G.
        damping: λ, above 0.
        columns: what is multiplied.

    >>> block_inverse(torch.ones(1, 1, 2), 1.0, torch.eye(2)[None])
    tensor([[[ 0.6667, -0.3333],
             [-0.3333,  0.6667]]])
    """
    count, entries = grads.shape[1:]
    if entries <= count:
        eye = torch.eye(entries, dtype=grads.dtype, device=grads.device)
        return torch.linalg.solve(damping * eye + grads.mT @ grads / count, columns)
    eye = torch.eye(count, dtype=grads.dtype, device=grads.device)
    inner = torch.linalg.solve(count * damping * eye + grads @ grads.mT, grads @ columns)
    return (columns - grads.mT @ inner) / damping


def _diagonal(grads: Tensor, damping: float) -> Tensor:
    """[F⁻¹]_qq of each entry of each block."""
    count, entries = grads.shape[1:]
    if entries <= count:
        eye = torch.eye(entries, dtype=grads.dtype, device=grads.device).expand(len(grads), entries, entries)
        return block_inverse(grads, damping, eye.contiguous()).diagonal(dim1=1, dim2=2)
    eye = torch.eye(count, dtype=grads.dtype, device=grads.device)
    inner = torch.linalg.solve(count * damping * eye + grads @ grads.mT, grads)
    return (1 - (grads * inner).sum(1)) / damping


def _blocks(grads: Tensor, size: int, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut flat tensors into blocks of consecutive entries, padded with zeros, some at a time, in float64."""
    count, total = len(grads), grads[0].numel()
    step = size * max(1, _AT_ONCE // max(1, size * (count + size)))
    for first in range(0, total, step):
        last = min(first + step, total)
        pad = -(last - first) % size
        part = F.pad(grads.reshape(count, -1)[:, first:last].double(), (0, pad)).reshape(count, -1, size)
        rest = (F.pad(other.reshape(-1)[first:last].double(), (0, pad)).reshape(-1, size) for other in others)
        yield (part.transpose(0, 1), *rest)


def _check(grads: Tensor) -> None:
    if not bool(torch.isfinite(grads).all()):
        raise SecateurError("the gradients of some samples are not finite: look for NaN among the batches.")


@dataclass(frozen=True)
class BlockCost:
    """½ w_q² / [F⁻¹]_qq: what the loss rises by without one weight when the others of its block make up for it.

    Attributes:
        block: how many consecutive entries of a tensor have curvature in common.
        damping: λ.
    """

    block: int = 2000
    damping: float = 1e-5

    def __call__(self, weight: Tensor, snapshots: Tensor) -> Tensor:
        """Score one tensor."""
        _check(snapshots)
        parts = [
            (w.square() / (2 * _diagonal(g, self.damping))).flatten()
            for g, w in _blocks(snapshots, min(self.block, weight.numel()), weight)
        ]
        return torch.cat(parts)[: weight.numel()].reshape(weight.shape)


@dataclass(frozen=True)
class LowRank:
    """Add up what makes up for each cut weight of a block: δ = −Σ_q (w_q/[F⁻¹]_qq) F⁻¹e_q, each for itself.

    Attributes:
        gradients: the measure of the gradients.
        block: how many consecutive entries of a tensor have curvature in common.
        damping: λ.
        always: whether at every milestone.
    """

    gradients: Measure
    block: int = 2000
    damping: float = 1e-5
    always: bool = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The gradients, one by one."""
        return (self.gradients,)

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        for name, keep in masks.items():
            parameter = moment.params[name]
            weight = parameter * moment.alive[name].to(parameter.device)
            grads = moment.evidence[self.gradients.name][name]
            solved = told(name, self._solved, weight, keep.to(weight.device), grads)
            parameter.copy_(solved.to(parameter.dtype))

    def _solved(self, weight: Tensor, keep: Tensor, grads: Tensor) -> Tensor:
        _check(grads)
        parts = []
        for g, w, k in _blocks(grads, min(self.block, weight.numel()), weight, keep):
            share = (w / _diagonal(g, self.damping) * (1 - k))[..., None]
            parts.append(((w - block_inverse(g, self.damping, share)[..., 0]) * k).flatten())
        return torch.cat(parts)[: weight.numel()].reshape(weight.shape)
