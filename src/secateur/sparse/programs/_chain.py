"""Read the chain Linear → ReLU → Linear … out of a model, or say why it is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from secateur.sparse.programs._trace import UnsupportedError, refuse_hooks, traced

__all__ = ["Chain", "chain_of"]

_RELU_FUNCTIONS = {torch.relu, nn.functional.relu, "relu", "relu_"}


@dataclass(frozen=True)
class Chain:
    """A feed-forward network: linear layers with a ReLU between each two.

    `flattens`: whether inputs of more than two dimensions are flattened first.
    """

    names: tuple[str, ...]
    layers: tuple[nn.Linear, ...]
    flattens: bool


def chain_of(model: nn.Module) -> Chain:
    """Trace the model symbolically and return its chain of linear layers.

    Raises:
        UnsupportedError: anything but flatten, Linear and ReLU, in another order, used twice, or hooked.

    >>> chain_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))).names
    ('1', '3')
    """
    refuse_hooks(model)
    reader = _Reader(model)
    for node in traced(model).nodes:
        reader.read(node)
    return reader.finish()


class _Reader:
    """Walks the traced graph and accepts nothing that it does not know."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.names: list[str] = []
        self.layers: list[nn.Linear] = []
        self.flattens = False
        self.relu_due = False  # the last thing seen was a linear layer
        self.value: fx.Node | None = None  # the activation as far as read
        self.sizes: set[fx.Node] = set()  # sizes of the input, for view(size(0), -1)

    def read(self, node: fx.Node) -> None:
        """Take in one node of the graph, in order."""
        if node.op == "placeholder":
            self._input(node)
        elif node.op == "output":
            if node.args[0] is not self.value:
                raise UnsupportedError("the model must return the last layer's output and nothing else")
        elif self._is_size(node):
            self.sizes.add(node)
        else:
            if not node.args or node.args[0] is not self.value:
                raise UnsupportedError(f"{_name(node)} does not take the output of the layer before it")
            self._operation(node)
            self.value = node

    def finish(self) -> Chain:
        """Return the chain once the whole graph is read."""
        if not self.layers:
            raise UnsupportedError("the model has no linear layer")
        if not self.relu_due:
            raise UnsupportedError("the model must end with a linear layer, not with a ReLU")
        if len({id(layer.weight) for layer in self.layers}) < len(self.layers):
            raise UnsupportedError("a linear layer is used twice, or shares its weights")
        return Chain(tuple(self.names), tuple(self.layers), self.flattens)

    def _input(self, node: fx.Node) -> None:
        if self.value is not None:
            raise UnsupportedError("the model takes more than one input")
        self.value = node

    def _is_size(self, node: fx.Node) -> bool:
        sized = node.op == "call_method" and node.target == "size" and node.args[0] is self.value
        shape = node.op == "call_function" and node.target is getattr and node.args[1:] == ("shape",)
        item = node.op == "call_function" and bool(node.args) and node.args[0] in self.sizes
        return sized or shape or item

    def _operation(self, node: fx.Node) -> None:
        if node.op == "call_module":
            self._module(node, self.modules[str(node.target)])
        elif node.target in _RELU_FUNCTIONS:
            self._relu(node)
        elif node.target in (torch.flatten, "flatten"):
            self._flatten(node, node.args[1:] == (1,) or node.kwargs == {"start_dim": 1})
        elif node.op == "call_method" and node.target in {"view", "reshape"}:
            self._flatten(node, len(node.args) == 3 and node.args[1] in self.sizes and node.args[2:] == (-1,))
        else:
            raise UnsupportedError(f"{_name(node)} is not a Linear, a ReLU or a flatten")

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        if type(module) is nn.Linear:
            self._linear(node, module)
        elif type(module) is nn.ReLU:
            self._relu(node)
        elif type(module) is nn.Flatten:
            self._flatten(node, (module.start_dim, module.end_dim) == (1, -1))
        elif not (type(module) is nn.Identity or (type(module) is nn.Dropout and module.p == 0)):
            raise UnsupportedError(f"{_name(node)} is a {type(module).__name__}, not a Linear, a ReLU or a flatten")

    def _linear(self, node: fx.Node, module: nn.Linear) -> None:
        if self.relu_due:
            raise UnsupportedError(f"there is no ReLU before {_name(node)}")
        self.names.append(str(node.target))
        self.layers.append(module)
        self.relu_due = True

    def _relu(self, node: fx.Node) -> None:
        if not self.relu_due:
            raise UnsupportedError(f"{_name(node)} does not follow a linear layer")
        self.relu_due = False

    def _flatten(self, node: fx.Node, plain: bool) -> None:
        if self.layers or not plain:
            raise UnsupportedError(f"{_name(node)} is not a flatten of all but the batch, before the first layer")
        self.flattens = True


def _name(node: fx.Node) -> str:
    target: Any = node.target
    return repr(target if isinstance(target, str) else getattr(target, "__name__", str(target)))
