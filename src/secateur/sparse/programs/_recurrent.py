"""Read a recurrent classifier out of a model, (linear →) LSTM or GRU → last state → linear, or say why it is none."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from secateur.sparse.programs._trace import UnsupportedError, refuse_hooks, traced

__all__ = ["RecurrentProgram", "is_recurrent_network", "recurrent_program_of"]

_COMPARISONS = {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.not_}
_ALL = slice(None, None, None)


@dataclass(frozen=True)
class RecurrentProgram:
    """A recurrent classifier.

    `sequences` and `images` tell which inputs it takes: [batch, step, feature], or [batch, channel, row, column]
    read row by row.
    """

    project: nn.Linear | None
    cell: nn.LSTM | nn.GRU
    head: nn.Linear
    sequences: bool
    images: bool

    @property
    def features(self) -> int:
        """Numbers of one step of the input."""
        return self.cell.input_size if self.project is None else self.project.in_features


def is_recurrent_network(model: nn.Module) -> bool:
    """Tell whether the model has an LSTM or a GRU."""
    return any(isinstance(module, nn.LSTM | nn.GRU) for module in model.modules())


def recurrent_program_of(model: nn.Module) -> RecurrentProgram:
    """Trace the model symbolically, once for sequences and once for images, and return what it computes.

    Raises:
        UnsupportedError: anything but the layers above in this order, or a hook.

    >>> class Last(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.cell, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         outputs, _ = self.cell(x)
    ...         return self.head(outputs[:, -1])
    >>> program = recurrent_program_of(Last())
    >>> program.project, program.cell, program.sequences, program.images
    (None, GRU(3, 4, batch_first=True), True, False)
    """
    refuse_hooks(model)
    found: dict[int, _Reader] = {}
    reasons: dict[int, str] = {}
    for rank in (3, 4):
        try:
            found[rank] = _read(model, rank)
        except UnsupportedError as error:
            reasons[rank] = str(error)
    if not found:
        raise UnsupportedError(reasons[3])
    layers = {tuple(map(id, reader.layers)) for reader in found.values()}
    if len(layers) > 1:
        raise UnsupportedError("the model computes something else for images than for sequences")
    project, cell, head = next(iter(found.values())).layers
    assert cell is not None and head is not None, "finish() has looked"
    return RecurrentProgram(project, cell, head, 3 in found, 4 in found)


class _Tracer(fx.Tracer):
    """Follows branches that depend on the number of the input's dimensions only."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = _constant(obj.node, self.rank)
        return super().to_bool(obj) if value is None else bool(value)


def _constant(node: Any, rank: int) -> Any:
    """Return what a node is for every input of this rank, None if it depends on more than that."""
    if not isinstance(node, fx.Node):
        return node
    sized = node.op == "call_method" and node.target in {"dim", "ndimension"}
    if sized or (node.op == "call_function" and node.target is getattr and node.args[1:] == ("ndim",)):
        source = node.args[0]
        return rank if isinstance(source, fx.Node) and source.op == "placeholder" else None
    if node.op == "call_function" and node.target in _COMPARISONS and not node.kwargs:
        values = [_constant(a, rank) for a in node.args]
        return None if None in values else node.target(*values)  # type: ignore[operator]
    return None


def _read(model: nn.Module, rank: int) -> _Reader:
    reader = _Reader(model, rank)
    for node in traced(model, _Tracer(rank)).nodes:
        reader.read(node)
    return reader


class _Reader:
    """Walks the traced graph and accepts nothing that it does not know."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        self.modules, self.rank = dict(model.named_modules()), rank
        self.project: nn.Linear | None = None
        self.cell: nn.LSTM | nn.GRU | None = None
        self.head: nn.Linear | None = None
        self.what: dict[fx.Node, str] = {}  # the nodes whose values we know

    @property
    def layers(self) -> tuple[nn.Linear | None, nn.LSTM | nn.GRU | None, nn.Linear | None]:
        """Projection, cell and head."""
        return self.project, self.cell, self.head

    def read(self, node: fx.Node) -> None:
        """Take in one node of the graph, in order."""
        if _constant(node, self.rank) is not None:
            return
        if node.op == "placeholder":
            if self.what:
                raise UnsupportedError("the model takes more than one input")
            self.what[node] = "sequence" if self.rank == 3 else "image"
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node) or self.what.get(node.args[0]) != "scores":
                raise UnsupportedError("the model must return its last linear layer's output and nothing else")
        else:
            source = node.args[0] if node.args else None
            kind = self.what.get(source) if isinstance(source, fx.Node) else None
            if kind is None:
                raise UnsupportedError(f"{_name(node)} does not take the output of a layer before it")
            self.what[node] = self._module(node, kind) if node.op == "call_module" else self._step(node, kind)

    def _step(self, node: fx.Node, kind: str) -> str:
        """Return what a function or method makes of a value."""
        rest = node.args[1:]
        if node.kwargs:
            raise UnsupportedError(f"{_name(node)} has keywords, of which none is known")
        if kind == "image" and node.target == "permute" and rest in ((0, 2, 1, 3), ((0, 2, 1, 3),)):
            return "rows"
        if kind == "rows" and node.target in ("flatten", torch.flatten) and rest == (2,):
            return "sequence"
        if node.target is operator.getitem and len(rest) == 1:
            made = self._item(kind, rest[0])
            if made is not None:
                return made
        if kind == "final states" and node.target == "squeeze" and rest == (0,):
            return "last"
        raise UnsupportedError(f"{_name(node)} of the {kind} is not known")

    def _item(self, kind: str, index: Any) -> str | None:
        gru = isinstance(self.cell, nn.GRU)
        if kind == "cell's results" and index in (0, 1):
            return "outputs" if index == 0 else "final states" if gru else "pair of final states"
        if kind == "pair of final states" and index in (0, 1):
            return "final states" if index == 0 else "final cell states"
        if kind == "outputs" and index in ((_ALL, -1), (_ALL, -1, _ALL)):
            return "last"
        return "last" if kind == "final states" and index in (0, -1) else None

    def _module(self, node: fx.Node, kind: str) -> str:
        module, name = self.modules[str(node.target)], _name(node)
        if len(node.args) > 1 or node.kwargs:
            raise UnsupportedError(f"{name} is called with more than one argument")
        if type(module) is nn.Identity or (type(module) is nn.Dropout and module.p == 0):
            return kind
        if kind == "sequence" and type(module) in (nn.LSTM, nn.GRU):
            self._cell(name, module)
            return "cell's results"
        if kind == "sequence" and type(module) is nn.Linear and self.project is None:
            self.project = module
            return "sequence"
        if kind == "last" and type(module) is nn.Linear:
            self.head = module
            return "scores"
        raise UnsupportedError(f"{name} is a {type(module).__name__} of the {kind}, which is not known")

    def _cell(self, name: str, module: Any) -> None:
        if self.cell is not None:
            raise UnsupportedError(f"{name} is a second recurrent layer")
        if not module.batch_first:
            raise UnsupportedError(f"{name} has batch_first=False")
        if module.num_layers > 1 or module.bidirectional or module.proj_size:
            raise UnsupportedError(f"{name} has several layers, two directions or a proj_size; use sparsify for it")
        self.cell = module


def _name(node: fx.Node) -> str:
    target: Any = node.target
    return repr(target if isinstance(target, str) else getattr(target, "__name__", str(target)))
