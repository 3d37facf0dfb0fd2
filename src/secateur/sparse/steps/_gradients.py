"""What growth asks for: dense gradients of a chain of linear layers, which is multiplied sparsely all the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur.sparse.calls import sparse_chain
from secateur.sparse.programs import Kind, Program
from secateur.sparse.steps._compact import CompactLayer

__all__ = ["dense_gradients"]


def dense_gradients(
    program: Program,
    layers: Mapping[int, CompactLayer],
    values: Mapping[int, Tensor],
    batch: tuple[Tensor, Tensor],
    wanted: Collection[int],
) -> dict[int, Tensor] | None:
    """Return ∂L/∂W = δᵀ x of the mean cross-entropy, also where W is pruned: δ and x come from sparse products.

    Args:
        program: the network.
        layers: its linear layers by the id of the weight.
        values: what is trained of weights and biases, by their id.
        batch: inputs [batch, features] and class numbers [batch].
        wanted: ids of the parameters whose gradients are asked for.

    Returns:
        The gradients by id; None if the network is no chain of linear layers, or if units of it are left out, which
        have inputs and outputs that nothing has computed.
    """
    modules = [operation.module for operation in program.operations]
    chained = all(o.kind is Kind.LINEAR for o in program.operations)
    chained = chained and all(after.inputs == (before.output,) for before, after in pairwise(program.operations))
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    own = {id(parameter) for module in linear for parameter in module.parameters()}
    idle = any(layers[id(m.weight)].plan.shape != m.weight.shape for m in linear)
    if not chained or idle or not own.issuperset(wanted):
        return None
    x, targets = batch
    inputs, outputs = [x.reshape(len(x), -1)], list[Tensor]()
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        for module, operation in zip(linear, program.operations, strict=True):
            plan, value = layers[id(module.weight)].plan, values[id(module.weight)]
            bias = None if module.bias is None else values[id(module.bias)]
            y = sparse_chain(inputs[-1], (plan,), (value,), (bias,))
            outputs.append(y if y.requires_grad else y.requires_grad_())  # the first layer's input has no gradient
            inputs.append(y.relu() if operation.relu else y)
        loss = nn.functional.cross_entropy(inputs[-1], targets)
        changes = torch.autograd.grad(loss, outputs)
    found: dict[int, Tensor] = {}
    for module, x, change in zip(linear, inputs, changes, strict=False):
        if id(module.weight) in wanted:
            found[id(module.weight)] = change.t() @ x.detach()
        if module.bias is not None and id(module.bias) in wanted:
            found[id(module.bias)] = change.sum(0)
    return found
