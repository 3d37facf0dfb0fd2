"""A price on units that point the same way: the angle between each and the mean of all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.axes.penalty import Penalty, check_strength
from secateur.axes.structure import Structure, filters
from secateur.penalties._groups import Divided
from secateur.selection import kept_count

_INSIDE = 1 - 1e-6  # the slope of arccos has no bound at 1


@dataclass(frozen=True)
class AngleSimilarity:
    """λ Σ_u (1 − arccos(cos(w_u, w̄))/π) over the largest units of a layer, w̄ their mean."""

    strength: float
    structure: Structure
    share: float

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        units = self.structure.split(weight)
        count = max(1, kept_count(self.share, len(units)))
        largest = torch.linalg.vector_norm(units.detach(), dim=1).sort(descending=True, stable=True).indices[:count]
        units = units[largest]
        tiny = torch.finfo(units.dtype).tiny
        cosine = torch.nn.functional.cosine_similarity(units, units.mean(0, keepdim=True), dim=1, eps=tiny**0.5)
        return self.strength * (1 - torch.arccos(cosine.clamp(-_INSIDE, _INSIDE)) / math.pi).sum()


def angle_similarity(strength: float, *, structure: Structure | None = None, share: float = 1.0) -> Penalty:
    """λ Σ_u (1 − θ_u/π), θ_u the angle between unit u and the mean of the layer's units: neurons are driven apart.

    Where units point in many directions, those that are small can go and the others still say different things: the
    angle-dissimilarity penalty, to be added to one that makes units small (`group_lasso`). 1 for a unit along the mean,
    ½ at a right angle, 0 opposite to it.

    Args:
        strength: λ.
        structure: the units; whole neurons or filters by default, `structure.columns()` for channels.
        share: only this share of the units pays, those of the largest norm.

    Source: X. Kang, github.com/kangxiatao/prune_tf2_master, `penalty.py`, where filters have λ `var_1` and channels
    `var_2`; no publication of it is known to this library. Deviates: the mean is that of whole units; the author's
    averages over kernel positions as well.

    >>> angle_similarity(1.0).term("w", torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    tensor(1.)
    """
    check_strength(strength)
    if not 0 < share <= 1:
        raise SecateurError(f"`share` must be in (0, 1], the part of the units that pays, got {share}.")
    units = structure or filters()
    name = f"angle_similarity({strength:g}, {units.name})"
    return Penalty(name, AngleSimilarity(strength, units, share), reach=Divided(units))
