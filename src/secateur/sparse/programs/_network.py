"""Read a feed-forward network out of a model as a list of operations, or say why it is none."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import fx, nn

from secateur.sparse.programs._trace import UnsupportedError, refuse_hooks, traced

__all__ = ["Kind", "Operation", "Program", "program_of"]

_RELUS = {torch.relu, nn.functional.relu, "relu", "relu_"}
_SUMS = {torch.add, operator.add, operator.iadd, "add", "add_"}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d)
_AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)


class Kind(Enum):
    """What an operation does."""

    CONVOLUTION = "convolution"
    LINEAR = "linear"
    NORM = "normalisation"
    RELU = "relu"
    MAX_POOL = "max-pooling"
    AVERAGE_POOL = "average pooling"
    SUM = "sum"


@dataclass(frozen=True)
class Operation:
    """One operation: it reads the values `inputs` and makes the value `output`; value 0 is the network's input.

    `relu`: whether max(·, 0) follows at once. `module` is the layer, where there is one.
    """

    kind: Kind
    inputs: tuple[int, ...]
    output: int
    module: nn.Module | None
    name: str
    relu: bool = False


@dataclass(frozen=True)
class Program:
    """A network as a list of operations in order; the last value made is its output.

    `rank`: dimensions of an image (2, or 1 for sequences, or 0 where the input is flat). `output` is the value
    returned, `flat` whether that is [batch, features] and no image.
    """

    operations: tuple[Operation, ...]
    output: int
    rank: int
    flat: bool
    flattens: bool

    @property
    def layers(self) -> tuple[Operation, ...]:
        """The convolutions and linear layers."""
        return tuple(o for o in self.operations if o.kind in (Kind.CONVOLUTION, Kind.LINEAR))

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """The normalisation layers."""
        return tuple(o.module for o in self.operations if o.kind is Kind.NORM and o.module is not None)


def program_of(model: nn.Module) -> Program:
    """Trace the model symbolically and return its operations.

    Understood are Conv1d/2d, Linear, BatchNorm1d/2d, ReLU, MaxPool, AvgPool, AdaptiveAvgPool(1), additions and
    one flatten between images and linear layers.

    Raises:
        UnsupportedError: anything else, a layer used twice, or a hook.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> [(o.kind.value, o.relu) for o in program_of(net).operations]
    [('convolution', True), ('linear', False)]
    """
    refuse_hooks(model)
    reader = _Reader(model)
    for node in traced(model).nodes:
        reader.read(node)
    return reader.finish()


class _Shape(Enum):
    """What is known of a value while reading."""

    INPUT = "the network's input"
    IMAGE = "an image"
    FLAT = "a flattened image"
    VECTOR = "the output of a linear layer"


class _Reader:
    """Walks the traced graph and accepts nothing that it does not know."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.values: dict[fx.Node, int] = {}
        self.shapes: dict[fx.Node, _Shape] = {}
        self.sizes: set[fx.Node] = set()  # batch sizes, for view(size(0), -1)
        self.operations: list[Operation] = []
        self.rank: int | None = None
        self.flattens = False
        self.count = 0
        self.made: fx.Node | None = None  # the node of the last operation
        self.output: fx.Node | None = None

    def read(self, node: fx.Node) -> None:
        """Take in one node of the graph, in order."""
        if node.op == "placeholder":
            if self.values:
                raise UnsupportedError("the model takes more than one input")
            self.values[node], self.shapes[node] = 0, _Shape.INPUT
        elif node.op == "output":
            self._output(node)
        elif self._is_size(node):
            self.sizes.add(node)
        elif node.target in _SUMS:
            self._sum(node)
        else:
            self._layer(node)

    def finish(self) -> Program:
        """Return the program once the whole graph is read."""
        if self.output is None or not any(o.kind in (Kind.CONVOLUTION, Kind.LINEAR) for o in self.operations):
            raise UnsupportedError("the model has no convolution and no linear layer")
        seen: set[int] = set()
        for module in (o.module for o in self.operations):
            for tensor in [] if module is None else module._parameters.values():
                if tensor is not None and id(tensor) in seen:
                    raise UnsupportedError("a layer is used twice, or shares its weights")
                seen.add(id(tensor))
        flat = self.shapes[self.output] is not _Shape.IMAGE
        return Program(tuple(self.operations), self.values[self.output], self.rank or 0, flat, self.flattens)

    def _output(self, node: fx.Node) -> None:
        found = node.args[0]
        if not isinstance(found, fx.Node) or found not in self.values:
            raise UnsupportedError("the model must return one layer's output and nothing else")
        self.output = found

    def _is_size(self, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        sized = node.op == "call_method" and node.target == "size" and source in self.values
        shape = node.op == "call_function" and node.target is getattr and node.args[1:] == ("shape",)
        item = node.op == "call_function" and node.target is operator.getitem and source in self.sizes
        return sized or shape or item

    def _layer(self, node: fx.Node) -> None:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source not in self.values:
            raise UnsupportedError(f"{_name(node)} does not take the output of a layer before it")
        if node.op == "call_module":
            self._module(node, source, self.modules[str(node.target)])
        elif node.target in _RELUS:
            self._relu(node, source)
        elif node.target in (torch.flatten, "flatten"):
            self._flatten(node, source, node.args[1:] == (1,) or node.kwargs == {"start_dim": 1})
        elif node.op == "call_method" and node.target in {"view", "reshape"}:
            rest: tuple[Any, ...] = node.args[1:]
            self._flatten(node, source, len(rest) == 2 and rest[1] == -1 and rest[0] in self.sizes)
        else:
            raise UnsupportedError(f"{_name(node)} has no sparse kernel")

    def _module(self, node: fx.Node, source: fx.Node, module: nn.Module) -> None:
        kinds: dict[type[nn.Module], Callable[[fx.Node, fx.Node, Any], None]] = {
            nn.Linear: self._linear,
            nn.ReLU: lambda n, s, _: self._relu(n, s),
            nn.Flatten: lambda n, s, m: self._flatten(n, s, (m.start_dim, m.end_dim) == (1, -1)),
            **dict.fromkeys(_CONVOLUTIONS, self._convolution),
            **dict.fromkeys(_NORMS, self._norm),
            **dict.fromkeys(_MAX_POOLS, self._max_pool),
            **dict.fromkeys(_AVERAGE_POOLS, self._average_pool),
        }
        if type(module) is nn.Identity or (type(module) is nn.Dropout and module.p == 0):
            self.values[node], self.shapes[node] = self.values[source], self.shapes[source]
        elif type(module) in kinds:
            kinds[type(module)](node, source, module)
        else:
            raise UnsupportedError(f"{_name(node)} is a {type(module).__name__}, which has no sparse kernel")

    def _add(self, node: fx.Node, kind: Kind, inputs: tuple[fx.Node, ...], shape: _Shape, module: Any) -> None:
        self.count += 1
        name = str(node.target) if node.op == "call_module" else node.name
        self.operations.append(Operation(kind, tuple(self.values[i] for i in inputs), self.count, module, name))
        self.values[node], self.shapes[node], self.made = self.count, shape, node

    def _image(self, node: fx.Node, source: fx.Node, rank: int) -> None:
        """Require that the source is an image (or a sequence, of rank 1)."""
        if self.shapes[source] in (_Shape.FLAT, _Shape.VECTOR):
            raise UnsupportedError(f"{_name(node)} takes {self.shapes[source].value}, not an image")
        if self.rank not in (None, rank):
            raise UnsupportedError(f"{_name(node)} is of another dimension than the layers before it")
        self.rank = rank

    def _convolution(self, node: fx.Node, source: fx.Node, module: Any) -> None:
        self._image(node, source, 2 if isinstance(module, nn.Conv2d) else 1)
        if module.padding_mode != "zeros":
            raise UnsupportedError(f"{_name(node)} has padding_mode={module.padding_mode!r}, only zeros are supported")
        if isinstance(module.padding, str) and any(
            d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)
        ):
            raise UnsupportedError(f"{_name(node)} pads its two sides differently")
        self._add(node, Kind.CONVOLUTION, (source,), _Shape.IMAGE, module)

    def _linear(self, node: fx.Node, source: fx.Node, module: Any) -> None:
        if self.shapes[source] is _Shape.IMAGE:
            raise UnsupportedError(f"{_name(node)} takes an image that was not flattened")
        self._add(node, Kind.LINEAR, (source,), _Shape.VECTOR, module)

    def _norm(self, node: fx.Node, source: fx.Node, module: Any) -> None:
        shape = self.shapes[source]
        if isinstance(module, nn.BatchNorm2d) or shape not in (_Shape.VECTOR, _Shape.FLAT):
            self._image(node, source, 2 if isinstance(module, nn.BatchNorm2d) else 1)
            shape = _Shape.IMAGE
        elif shape is _Shape.FLAT:
            raise UnsupportedError(f"{_name(node)} normalises a flattened image feature by feature")
        if not module.track_running_stats or module.momentum is None:
            raise UnsupportedError(f"{_name(node)} has no running statistics, or averages them without a momentum")
        self._add(node, Kind.NORM, (source,), shape, module)

    def _max_pool(self, node: fx.Node, source: fx.Node, module: Any) -> None:
        self._image(node, source, 2 if isinstance(module, nn.MaxPool2d) else 1)
        if module.ceil_mode or module.return_indices or _pair(module.dilation) != (1, 1):
            raise UnsupportedError(f"{_name(node)} has ceil_mode, return_indices or a dilation")
        self._add(node, Kind.MAX_POOL, (source,), _Shape.IMAGE, module)

    def _average_pool(self, node: fx.Node, source: fx.Node, module: Any) -> None:
        self._image(node, source, 2 if isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d) else 1)
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool1d):
            if _pair(module.output_size) != (1, 1):
                raise UnsupportedError(f"{_name(node)} averages to {module.output_size}, only 1 is supported")
        elif module.ceil_mode or getattr(module, "divisor_override", None) is not None:
            raise UnsupportedError(f"{_name(node)} has ceil_mode or divisor_override")
        self._add(node, Kind.AVERAGE_POOL, (source,), _Shape.IMAGE, module)

    def _relu(self, node: fx.Node, source: fx.Node) -> None:
        last = self.operations[-1] if self.operations else None
        fusible = {Kind.CONVOLUTION, Kind.LINEAR, Kind.NORM, Kind.SUM}
        if last is not None and last.kind in fusible and source is self.made and len(source.users) == 1:
            self.operations[-1] = replace(last, relu=True)
            self.values[node], self.shapes[node] = last.output, self.shapes[source]
        else:
            self._add(node, Kind.RELU, (source,), self.shapes[source], None)

    def _flatten(self, node: fx.Node, source: fx.Node, plain: bool) -> None:
        if not plain:
            raise UnsupportedError(f"{_name(node)} is not a flatten of all but the batch")
        shape = self.shapes[source]
        self.flattens = self.flattens or shape is _Shape.INPUT
        self.values[node] = self.values[source]
        self.shapes[node] = shape if shape is _Shape.VECTOR else _Shape.FLAT

    def _sum(self, node: fx.Node) -> None:
        parts = [a for a in node.args if isinstance(a, fx.Node) and a in self.values]
        if len(parts) != 2 or len(node.args) != 2 or node.kwargs:
            raise UnsupportedError(f"{_name(node)} is not a sum of two layers' outputs")
        kinds = {self.shapes[p] for p in parts} - {_Shape.INPUT}
        if len(kinds) > 1:
            raise UnsupportedError(f"{_name(node)} adds values of different kinds")
        self._add(node, Kind.SUM, (parts[0], parts[1]), kinds.pop() if kinds else _Shape.INPUT, None)


def _pair(value: Any) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values if len(values) == 2 else values * 2


def _name(node: fx.Node) -> str:
    target: Any = node.target
    return repr(target if isinstance(target, str) else getattr(target, "__name__", str(target)))
