"""What growth asks for: dense gradients of a chain of linear layers, which is multiplied sparsely all the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur.sparse.calls import sparse_chain
from secateur.sparse.programs import Kind, Program
from secateur.sparse.steps._compact import CompactLayer
from secateur.sparse.steps._slices import Slice, spread

__all__ = ["dense_gradients"]


def dense_gradients(
    program: Program,
    layers: Mapping[int, CompactLayer],
    slices: Mapping[int, Slice],
    batch: tuple[Tensor, Tensor],
    wanted: Collection[int],
) -> dict[int, Tensor] | None:
    """Return ∂L/∂W = δᵀ x of the mean cross-entropy, also where W is pruned: δ and x come from sparse products.

    A layer of which units are left out has inputs or outputs that the engine does not compute: it is multiplied as a
    dense matrix.

    Args:
        program: the network.
        layers: its linear layers by the id of the weight.
        slices: what is trained of weights and biases, by their id.
        batch: inputs [batch, features] and class numbers [batch].
        wanted: ids of the parameters whose gradients are asked for.

    Returns:
        The gradients by id; None if the network is no chain of linear layers.
    """
    modules = [operation.module for operation in program.operations]
    chained = all(o.kind is Kind.LINEAR for o in program.operations)
    chained = chained and all(after.inputs == (before.output,) for before, after in pairwise(program.operations))
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    own = {id(parameter) for module in linear for parameter in module.parameters()}
    if not chained or not own.issuperset(wanted):
        return None
    x, targets = batch
    inputs, outputs = [x.reshape(len(x), -1)], list[Tensor]()
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        for module, operation in zip(linear, program.operations, strict=True):
            y = _through(module, layers[id(module.weight)], slices, inputs[-1])
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


def _through(module: nn.Linear, layer: CompactLayer, slices: Mapping[int, Slice], x: Tensor) -> Tensor:
    """Return x Wᵀ + b, of all units of the layer."""
    weight, bias = slices[id(module.weight)], None if module.bias is None else slices[id(module.bias)]
    if layer.plan.shape == module.weight.shape:
        added = None if bias is None else bias.value[: bias.active]
        return sparse_chain(x, (layer.plan,), (weight.value[: weight.active],), (added,))
    return nn.functional.linear(x, _whole(weight), None if bias is None else _whole(bias))


@torch.no_grad()
def _whole(piece: Slice) -> Tensor:
    dense = torch.empty(piece.parameter.shape)
    spread(piece.value, piece.places, dense)
    return dense
