"""Constants of units that went, added to the biases of those that read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.shrinking._constants import Fold
from secateur.shrinking._cut import Plan

__all__ = ["fold_"]


def fold_(small: nn.Module, plan: Plan, folds: Sequence[Fold]) -> None:
    """Add to biases in place, making one where a layer has none.

    Args:
        small: the model that was cut.
        plan: the cut.
        folds: constants of units that went.
    """
    total: dict[str, Tensor] = {}
    for fold in folds:
        total[fold.weight] = total[fold.weight] + fold.addition if fold.weight in total else fold.addition
    for weight, addition in total.items():
        _add(small, plan, weight, addition)


def _add(small: nn.Module, plan: Plan, weight: str, addition: Tensor) -> None:
    module = small.get_submodule(weight.rpartition(".")[0])
    dim = 1 if getattr(module, "transposed", False) else 0
    made = [entry.ids for entry in plan.coupling.entries if weight in entry.names and entry.dim == dim]
    if made:
        addition = addition[torch.from_numpy(~plan.gone[made[0]]).to(addition.device)]
    like: Tensor = module.get_parameter("weight")
    with torch.no_grad():
        old = module._parameters.get("bias")
        new = addition.to(like) if old is None else old.detach() + addition.to(old)
        module.bias = nn.Parameter(new, like.requires_grad)
