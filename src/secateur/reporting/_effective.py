"""Weights on a path of kept weights from the inputs to the outputs, counted for a report."""

from __future__ import annotations

from torch import nn

from secateur._base.errors import SecateurError
from secateur.costing import Call
from secateur.masks import Masks
from secateur.signals import effective

__all__ = ["effective_counts"]


def effective_counts(model: nn.Module, masks: Masks, call: Call) -> dict[str, int]:
    """Count the weights of each mask that lie on a path of kept weights; nothing where that cannot be computed.

    Args:
        model: dense; it is copied.
        masks: what stays.
        call: whose shapes the inputs of ones have.
    """
    inputs = call.inputs[0] if len(call.inputs) == 1 else call.inputs
    batch = dict(call.kwargs) if call.kwargs else (inputs, None)
    try:
        return {layer.name: layer.kept for layer in effective(model, masks, batch).layers()}
    except SecateurError:  # the model's own code does not run in float64, or on ones
        return {}
