"""A whole model as one call of the kernels: for few samples, where the way from layer to layer costs as much again.

What stands between convolutions (normalisation, ReLU, sums, pooling) moves every activation once more, and a call from
Python takes as long as a small layer. In evaluation mode and without gradients none of it is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.recent import remember
from secateur.sparse.calls import FEW, SHAPES, Arena, build_network, fits, looked_into, run_network
from secateur.sparse.layers._network_sequential import Run, fold_once, tensors_of
from secateur.sparse.programs import Kind, Operation, Program, UnsupportedError, hooked, program_of

_FOLDING = (Kind.CONVOLUTION, Kind.LINEAR)


class OneCall:
    """The `forward` of a model: one native call where that can be, else the model's own.

    It stands in the model's instance attribute `forward`, which Python finds before the method: the model keeps its
    class, its modules and its state_dict. One call it is in evaluation mode, without gradients, for one tensor of fewer
    than `FEW` samples, as long as nobody has hooked or replaced a layer; then normalisations are folded into the
    surviving weights in front of them, anew whenever one of the tensors changes.

    Args:
        model: the model with its sparse layers.
        program: the operations of its forward, from `program_of` the dense model; layers are found by their paths.
    """

    def __init__(self, model: nn.Module, program: Program) -> None:
        self.model = model
        self.program = replace(program, operations=tuple([replace(o, module=None) for o in program.operations]))
        self.__setstate__({})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        x: Any = args[0] if len(args) == 1 and not kwargs else None
        run = self._run_for(x) if isinstance(x, Tensor) else None
        if run is None:
            return type(self.model).forward(self.model, *args, **kwargs)
        return run_network(x, run.network, fold_once(run), training=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "program": self.program}  # the rest is compiled again elsewhere

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._runs: dict[Any, Run | None] = {}
        self._arena = Arena()
        # What the model was made of; the module of each operation, None where it has none; the normalisations.
        self._edges: list[tuple[dict[str, nn.Module | None], str, nn.Module, type[nn.Module]]] = []
        self._layers: list[Any] = []
        self._norms: list[Any] = []

    def prepared(self, x: Tensor) -> bool:
        """Tell whether a call with these inputs would be one call; it is compiled then."""
        return self._run_for(x) is not None

    def _run_for(self, x: Tensor) -> Run | None:
        if door.native is None or looked_into(x) or not self._plain(x):
            return None
        if not self._same() or self.model.training:
            return None
        if any(child.training or hooked(child) for _, _, child, _ in self._edges):
            return None
        parameters = [t for layer in self._layers if layer is not None for t in tensors_of(layer)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters)):
            return None
        if not fits(x, *[t for t in parameters if t.is_floating_point()]):
            return None
        key = (x.shape, *[norm.eps for norm in self._norms])
        if key not in self._runs:
            remember(self._runs, key, _compiled(self.program, self._layers, x.shape, self._arena), most=SHAPES)
        return self._runs[key]

    def _plain(self, x: Tensor) -> bool:
        few = x.dim() == self.program.rank + 2 and 0 < x.shape[0] < FEW
        return few and not torch.is_autocast_enabled("cpu")

    def _same(self) -> bool:
        """Tell whether the model still consists of the modules that it had at first: its program is theirs."""
        if not self._edges:
            known = dict(self.model.named_modules())
            edges = [(m._modules, n, c) for m in known.values() for n, c in m._modules.items() if c is not None]
            self._edges = [(owner, name, child, type(child)) for owner, name, child in edges]
            self._layers = [known.get(operation.name) for operation in self.program.operations]
            self._norms = [layer for layer in self._layers if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
        return all(owner.get(name) is child and type(child) is kind for owner, name, child, kind in self._edges)


def in_one_call(model: nn.Module, dense: nn.Module, x: object) -> nn.Module | None:
    """Let the model run in one call where it can, and return it; None if it cannot for the inputs `x`.

    Args:
        model: a model with sparse layers; it is changed.
        dense: the model that it was made of, whose forward is read.
        x: what it will be called with.
    """
    if not isinstance(x, Tensor) or x.shape[:1].numel() >= FEW or model.training:
        return None
    try:
        program = program_of(dense)
    except UnsupportedError:
        return None
    made = OneCall(model, program)
    with torch.no_grad():
        if not made.prepared(x):
            return None
    model.forward = made  # type: ignore[method-assign]
    return model


def apart(model: nn.Module) -> nn.Module:
    """Take the one call away from a model that has it."""
    if isinstance(model.__dict__.get("forward"), OneCall):
        del model.__dict__["forward"]
    return model


def _compiled(program: Program, layers: list[Any], shape: Sequence[int], arena: Arena) -> Run | None:
    operations = [replace(o, module=m) for o, m in zip(program.operations, layers, strict=True)]
    found = _folded(replace(program, operations=tuple(operations)))
    if found is None:
        return None
    folded, folds = found
    try:
        network = build_network(folded, tuple(shape[1:]), {}, arena, few=shape[0])
    except UnsupportedError:
        return None  # torch says better what does not fit
    return Run(tuple([m for m in layers if m is not None]), network, (), tuple(folds))


def _folded(program: Program) -> tuple[Program, list[tuple[nn.Module | None, nn.Module]]] | None:
    """Return the program without its normalisations, and which layer each is folded into; None if one cannot be."""
    readers = Counter(i for operation in program.operations for i in operation.inputs)
    operations: list[Operation] = []
    folds: list[tuple[nn.Module | None, nn.Module]] = []
    places: dict[int, int] = {}  # of the operation that makes a value
    names = {0: 0}  # of values, once normalisations are gone
    for operation in program.operations:
        inputs = tuple([names[i] for i in operation.inputs])
        if operation.kind is not Kind.NORM:
            places[operation.output] = len(operations)
            names[operation.output] = operation.output
            operations.append(replace(operation, inputs=inputs))
            continue
        before = operations[places[inputs[0]]] if inputs[0] in places else None
        if before is None or before.kind not in _FOLDING or before.relu or readers[operation.inputs[0]] > 1:
            return None
        if operation.module is None or any(before.module is layer for layer, _ in folds):
            return None
        folds.append((before.module, operation.module))
        operations[places[inputs[0]]] = replace(before, relu=operation.relu)
        names[operation.output] = inputs[0]
    return replace(program, operations=tuple(operations), output=names[program.output]), folds
