"""Other masks for a sparse layer that is being trained: what survives keeps its value and the optimizer's memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from secateur.holding import starts_at
from secateur.sparse.layers import SparseConvolution, SparseLinear, WeightState
from secateur.sparse.plans import ConvolutionPlan, Survivors, places_of, plan_layer


@torch.no_grad()
def replant(layer: WeightState[Any], mask: Tensor, optimizers: Iterable[Optimizer]) -> None:
    """Let the layer keep other weights: its parameter stays the same object, of another length where counts differ."""
    old, values = layer.plan, layer.values
    made = _plan(layer, mask)
    for optimizer in optimizers:
        if isinstance(optimizer, LBFGS):
            optimizer.state.clear()
        state: dict[str, Any] = optimizer.state.get(values, {})
        for key, slot in state.items():
            if isinstance(slot, Tensor) and slot.shape == values.shape and key != "step":
                state[key] = _moved(slot, old, made, starts_at(optimizer, values, key))
    carried = _moved(values.detach(), old, made, 0.0)
    if carried.shape == values.shape:
        values.copy_(carried)
    else:
        values.grad = None
        values.data = carried.new_empty(0, dtype=torch.complex64)  # of another type: autograd forgets the old length
        values.data = carried
    layer.plan = made
    for kept in ("_built", "_rounded", "_networks"):
        layer.__dict__.pop(kept, None)


def forget_compiled(model: nn.Module) -> None:
    """Have what runs several layers in one call compiled anew."""
    for module in model.modules():
        module.__dict__.pop("_runs", None)
        whole = module.__dict__.get("forward")
        if whole is not None and hasattr(whole, "_runs"):
            whole._runs.clear()


def _plan(layer: WeightState[Any], mask: Tensor) -> Survivors:
    if isinstance(layer, SparseLinear):
        return plan_layer(mask, blocks=not layer.singly)
    assert isinstance(layer, SparseConvolution), "no other layer is let in"
    return ConvolutionPlan(layer.plan.geometry, places_of(mask))


def _moved(stored: Tensor, old: Survivors, new: Survivors, start: float) -> Tensor:
    """Return what was stored in one order in the other; `start` where there was nothing."""
    dense = torch.full((old.shape.numel(),), start, dtype=stored.dtype, device=stored.device)
    dense[old.positions.to(stored.device)] = stored
    return dense[new.positions.to(stored.device)]
