"""Weights on a path of kept weights from the inputs to the outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.costing import Call
from secateur.masks import Masks
from secateur.measures import flow, gather

__all__ = ["effective_counts"]

_NO_PATH = "flow through this network is 0.0"  # as the measure says it


def effective_counts(model: nn.Module, masks: Masks, call: Call) -> dict[str, int]:
    """Count the weights of each mask that lie on a path of kept weights; nothing where that cannot be computed.

    ∂R/∂m > 0 with R = 1ᵀ f_m(1), where f_m is the network with the masks for weights, each row divided by what it
    keeps so that deep networks neither overflow nor vanish, with biases 0 and normalisations as scalings by 1.

    Args:
        model: dense; it is copied.
        masks: what stays.
        call: whose shapes the inputs of ones have.
    """
    twin = copy.deepcopy(model).eval()
    parameters = masks.parameters(twin)
    with torch.no_grad():
        for each in twin.parameters():
            if each.is_floating_point():
                each.fill_(1.0)
        for name, parameter in parameters.items():
            parameter.copy_(_averaging(masks[name].to(parameter.device)))
        for module in twin.modules():
            if isinstance(variance := getattr(module, "running_var", None), Tensor):
                variance.fill_(1.0)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    own = {
        name: parameter
        for name, parameter in twin.named_parameters()
        if any(parameter is p for p in parameters.values())
    }
    inputs = call.inputs[0] if len(call.inputs) == 1 else call.inputs
    batch = dict(call.kwargs) if call.kwargs else (inputs, None)
    try:
        flows = gather(twin, [batch], [flow()], params=own)["flow"]
    except SecateurError as problem:  # a network without a path is one in which no weight is effective
        return dict.fromkeys(masks, 0) if _NO_PATH in str(problem) else {}
    except (RuntimeError, TypeError):  # the model's own code does not run in float64, or on ones
        return {}
    of = {id(parameter): flows[name] for name, parameter in own.items()}
    return {n: int(((of[id(p)] != 0) & masks[n].to(p.device)).sum()) for n, p in parameters.items()}


def _averaging(mask: Tensor) -> Tensor:
    rows = mask.reshape(mask.shape[0] if mask.dim() else 1, -1)
    return (rows / rows.sum(dim=1, keepdim=True).clamp(min=1)).reshape(mask.shape)
