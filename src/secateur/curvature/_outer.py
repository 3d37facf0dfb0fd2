"""Squared gradients of linear layers without the gradients: Σ_n (g_n x_nᵀ)² = (g²)ᵀ x², g and x of all samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur._base.errors import UnfitModelError
from secateur.curvature._samples import per_sample, refuse_batch_statistics, rows_of, samples_in
from secateur.measures import Call, Evidence, Probe, logits_of, watched

__all__ = ["outer_squares", "summed_cross_entropy"]


def summed_cross_entropy(output: Any, targets: Tensor) -> Tensor:
    """The default loss of each sample, added up: for (samples, classes) and class numbers."""
    return F.cross_entropy(logits_of(output), targets.long(), reduction="sum")


def outer_squares(probe: Probe) -> Evidence | None:
    """Return Σ_n (∂L_n/∂w)² where every weight is a linear layer's that sees each sample once; None where not.

    That the samples do not look at one another is tried on the first: its gradient, alone, must be the outer product.

    Args:
        probe: a pair as batch, and a loss that is the sum of the samples' own.
    """
    count = samples_in(probe.batch)
    refuse_batch_statistics(probe.model)
    seen: dict[str, list[Call]] = {}
    try:
        with watched(probe.model, probe.params, lambda call: seen.setdefault(call.name, []).append(call)):
            probe.differentiate(probe.evaluate())
    except UnfitModelError:
        return None
    calls = [call for each in seen.values() for call in each]
    once = all(len(each) == 1 for each in seen.values())
    if not once or any(call.inputs.dim() != 2 or call.inputs.shape[0] != count for call in calls):
        return None
    if not _alone(probe, calls):
        return None
    found = {}
    for call in calls:
        assert call.grad is not None
        squares = call.grad.double().square().T @ call.inputs.double().square()
        found[call.name] = squares if call.matrix is call.weight else squares.T
    return {name: found[name] for name in probe.params if name in found}


def _alone(probe: Probe, calls: list[Call]) -> bool:
    first = replace(probe, batch=rows_of(probe.batch, 0, 1), _grads=None, _grads_owned=False)
    (grads,) = list(per_sample(first, vectorise=False)) or [{}]
    for call in calls:
        assert call.grad is not None
        outer = torch.outer(call.grad[0], call.inputs[0])
        whole = grads.get(call.name)
        outer = outer if call.matrix is call.weight else outer.T
        scale = float(outer.abs().max()) + 1e-12
        if whole is None or float((whole[0] - outer).abs().max()) > 1e-3 * scale:
            return False
    return True
