"""Build the native network of a program: its layers, and which tensor belongs into which of its slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur.sparse.calls._workspace import Arena
from secateur.sparse.plans import LayerPlan, geometry_of, places_of, plan_layer
from secateur.sparse.programs import Kind, Operation, Program, UnsupportedError

#: Input shapes for which a module keeps networks: each has an index of all surviving weights.
SHAPES = 16


@dataclass(frozen=True, eq=False)
class Network:
    """A native network for inputs of one shape.

    Attributes:
        native: the compiled network.
        slots: the module and attribute that each slot takes, `("weight", conv)` for instance; the slot of a
            masked weight takes the surviving values only, in the order of `positions_of`.
        shape: of the outputs, without the batch.
        plans: of the linear layers, which must live as long as the network.
        arena: where calls take their workspaces; networks of one module, for its several shapes, share it.
    """

    native: Any
    slots: tuple[tuple[nn.Module, str], ...]
    shape: tuple[int, ...]
    plans: tuple[LayerPlan, ...]
    arena: Arena


def positions_of(module: nn.Module, mask: Tensor | None) -> Tensor:
    """Return the flat places of a layer's surviving weights in the kernels' order; None keeps every weight."""
    full = torch.ones(module.get_parameter("weight").shape, dtype=torch.bool) if mask is None else mask
    return plan_layer(full, blocks=True).positions if isinstance(module, nn.Linear) else places_of(full)


def image_of(shape: tuple[int, ...], program: Program) -> tuple[int, int, int]:
    """Return (channels, rows, columns) of one input of this shape, or say what was expected."""
    if program.rank and len(shape) == program.rank + 1:
        return (shape[0], 1, shape[1]) if program.rank == 1 else (shape[0], shape[1], shape[2])
    if not program.rank and (len(shape) == 1 or program.flattens):
        return (int(torch.Size(shape).numel()), 1, 1)
    wanted = {0: "[batch, features]", 1: "[batch, channels, steps]", 2: "[batch, channels, rows, columns]"}
    raise UnsupportedError(f"the inputs must be {wanted[program.rank]}, got {('batch', *shape)}")


def build_network(
    program: Program,
    shape: tuple[int, ...],
    masks: Mapping[int, Tensor],
    arena: Arena,
    *,
    plans: Mapping[int, LayerPlan] | None = None,
    full: bool = False,
    flat: bool = False,
    few: int = 0,
) -> Network:
    """Compile the program for inputs of this shape.

    Args:
        program: the operations.
        shape: of one input, without the batch.
        masks: by the id of the weight; layers without one keep all weights.
        arena: where its calls take their workspaces.
        plans: of the linear layers by the id of the weight, instead of masks.
        full: whether linear layers that keep most of their weights are multiplied as full matrices.
        flat: whether the output must be as linear layers give it, for the loss of a fused step.
        few: build it for batches of so many samples and without gradients, for latency: vectors run along the
            images' positions. Only networks without normalisations. 0: for batches that fill vectors.

    Raises:
        UnsupportedError: layers that do not fit each other or the shape.
    """
    native = door.native
    assert native is not None, "the caller has looked"
    image = image_of(shape, program)
    net = native.PlaneNet(*image, few) if few else native.SparseNet(*image)
    builder = _Builder(net, masks, {} if plans is None else plans, full)
    try:
        for operation in program.operations:
            builder.add(operation)
        builder.net.finish(builder.buffers[program.output], flat)
    except ValueError as error:
        raise UnsupportedError(f"the layers do not fit inputs of shape {shape}: {error}") from error
    channels, rows, columns = builder.net.shape(builder.buffers[program.output])
    if program.flat:
        outputs: tuple[int, ...] = (channels * rows * columns,)
    else:
        outputs = (channels, columns) if program.rank == 1 else (channels, rows, columns)
    return Network(builder.net, tuple(builder.slots), outputs, tuple(builder.plans), arena)


class _Builder:
    """Adds one operation after another to a native network."""

    def __init__(self, net: Any, masks: Mapping[int, Tensor], known: Mapping[int, LayerPlan], full: bool) -> None:
        self.net, self.masks, self.known, self.full = net, masks, known, full
        self.buffers: dict[int, int] = {0: 0}
        self.slots: list[tuple[nn.Module, str]] = []
        self.plans: list[LayerPlan] = []

    def add(self, operation: Operation) -> None:
        """Add an operation behind the buffers that it reads."""
        inputs = [self.buffers[i] for i in operation.inputs]
        self.buffers[operation.output] = self._made(operation, inputs, operation.module)

    def _made(self, operation: Operation, inputs: list[int], module: Any) -> int:
        kind = operation.kind
        if kind is Kind.CONVOLUTION:
            return self._convolution(inputs[0], module, operation.relu)
        if kind is Kind.LINEAR:
            return self._linear(inputs[0], module, operation.relu)
        if kind is Kind.NORM:
            self.slots += [(module, name) for name in ("weight", "bias", "running_mean", "running_var")]
            return self.net.norm(inputs[0], module.eps, module.momentum, operation.relu)
        if kind is Kind.SUM:
            return self.net.sum(inputs[0], inputs[1], operation.relu)
        if kind is Kind.RELU:
            return self.net.copy(inputs[0], True)
        return self._pool(inputs[0], module, kind is Kind.MAX_POOL)

    def _linear(self, buffer: int, module: Any, relu: bool) -> int:
        if isinstance(module, nn.Linear) and id(module.weight) in self.known:
            plan = self.known[id(module.weight)]
        elif isinstance(module, nn.Linear):
            mask = self.masks.get(id(module.weight))
            plan = plan_layer(torch.ones(module.weight.shape, dtype=torch.bool) if mask is None else mask, blocks=True)
        else:
            plan = module.plan
        self.plans.append(plan)
        self.slots += [(module, _values(module)), (module, "bias")]
        return self.net.linear(buffer, plan.layer, relu, self.full)

    def _convolution(self, buffer: int, module: Any, relu: bool) -> int:
        _, height, width = self.net.shape(buffer)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            geometry, positions = geometry_of(module), positions_of(module, self.masks.get(id(module.weight)))
        else:
            geometry, positions = module.plan.geometry, module.plan.positions
        channels, window = geometry.sizes
        self.slots += [(module, _values(module)), (module, "bias")]
        return self.net.convolution(buffer, [*channels, height, width, *window], positions.numpy(), relu)

    def _pool(self, buffer: int, module: Any, maximum: bool) -> int:
        _, height, width = self.net.shape(buffer)
        if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
            return self.net.pool(buffer, [height, width, height, width, height, width, 0, 0], False, True)
        sequence = isinstance(module, nn.MaxPool1d | nn.AvgPool1d)
        size, step, pad = (
            (v,) if sequence and isinstance(v, int) else v for v in (module.kernel_size, module.stride, module.padding)
        )
        kernel, stride, padding = _two(size, 1), _two(size if step is None else step, 1), _two(pad, 0)
        counts = maximum or module.count_include_pad
        return self.net.pool(buffer, [height, width, *kernel, *stride, *padding], maximum, counts)


def _values(module: nn.Module) -> str:
    """Name the parameter that holds a layer's weights: sparse layers keep those that survive."""
    return "values" if "values" in module._parameters else "weight"


def _two(value: Any, other: int) -> tuple[int, int]:
    """Spell a size of a layer out for rows and columns; a sequence is an image of one row.

    >>> _two((3,), 1), _two((3, 5), 1)
    ((1, 3), (3, 5))
    """
    if isinstance(value, int):
        return value, value
    return (other, value[0]) if len(value) == 1 else (value[0], value[1])
