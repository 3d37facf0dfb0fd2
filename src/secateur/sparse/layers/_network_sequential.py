"""A Sequential that hands a run of layers around sparse convolutions to the kernels in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.recent import remember
from secateur.sparse.calls import (
    FEW,
    SHAPES,
    Arena,
    Network,
    autocast_to,
    build_network,
    fits,
    positions_of,
    run_network,
    slot_tensors,
)
from secateur.sparse.layers._convolution import SparseConv1d, SparseConv2d, SparseConvolution
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.layers._sequential import SparseSequential
from secateur.sparse.programs import Kind, Operation, Program, UnsupportedError, hooked

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_KINDS: dict[type[nn.Module], Kind] = {
    nn.ReLU: Kind.RELU,
    nn.MaxPool1d: Kind.MAX_POOL,
    nn.MaxPool2d: Kind.MAX_POOL,
    nn.AvgPool1d: Kind.AVERAGE_POOL,
    nn.AvgPool2d: Kind.AVERAGE_POOL,
    nn.BatchNorm1d: Kind.NORM,
    nn.BatchNorm2d: Kind.NORM,
}


class _State(Enum):
    """What flows between two layers of a run."""

    IMAGE = "image"
    FLAT = "flattened image"
    VECTOR = "output of a linear layer"


@dataclass(frozen=True, eq=False)
class Run:
    """Some neighbouring layers of a Sequential, compiled for one input shape."""

    layers: tuple[nn.Module, ...]
    network: Network
    norms: tuple[nn.Module, ...]
    folds: tuple[tuple[nn.Module | None, nn.Module], ...]  # each layer and the normalisation folded into it
    folded: list[_Folded] = field(default_factory=list)  # the last one, if any


@dataclass(frozen=True, eq=False)
class _Folded:
    """The tensors of a network whose normalisations are folded, and what they were made of."""

    sources: list[Tensor]  # held, so that their marks stay theirs
    marks: list[tuple[int, int, int]]
    tensors: list[Tensor | None]


class NetworkSequential(SparseSequential):
    """An `nn.Sequential` in which layers around sparse convolutions run as one call.

    The activations between those layers stay in the kernels' layout and never become torch tensors, so a layer
    that has a hook, and whatever the kernels do not take, runs on its own, as in any Sequential. In evaluation
    mode without gradients, normalisations are folded into the surviving weights in front of them; the model
    itself keeps both, so that it can be trained on and `densify` gives every bit back.
    """

    def _run_at(self, children: Sequence[nn.Module], begin: int, x: Tensor) -> tuple[Tensor, int] | None:
        """Run as many layers as one call takes, from `begin` on; return the output and which layer comes next."""
        if not isinstance(children[begin], SparseConvolution):
            return None
        if autocast_to(x) is None:
            run, way = self._run_from(children, begin, x), self._run
        else:
            with torch.autocast("cpu", enabled=False):
                run, way = self._run_from(children, begin, x.float()), self._run_reduced
        if run is None:
            return None
        end = begin + len(run.layers)
        return way((begin, end, self.training), x, partial(self._through, run), children[begin:end]), end

    def train(self, mode: bool = True) -> NetworkSequential:
        """Set training or evaluation mode. What was folded is folded anew: `.data` is written without a trace."""
        for run in self.__dict__.get("_runs", {}).values():
            if run is not None:
                run.folded.clear()
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_runs", "_arena")}

    def _run_from(self, children: Sequence[nn.Module], begin: int, x: Tensor) -> Run | None:
        layers = _layers_from(children, begin)
        if door.native is None or len(layers) < 2 or x.dim() != _rank(layers) + 2:
            return None
        tensors = [t for layer in layers for t in tensors_of(layer)]
        if not fits(x, *(t for t in tensors if t.is_floating_point())):
            return None
        norms: list[Any] = [layer for layer in layers if isinstance(layer, _NORMS)]
        learns = bool(norms) and norms[0].training  # running statistics; a run ends before a norm of the other mode
        if x.shape[0] == 1 and learns:
            return None  # torch knows which of them have too few values
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors))
        fold = not (self.training or learns or trains)
        few = x.shape[0] if fold and x.shape[0] < FEW else 0
        # A layer that was set anew, or whose options were, is compiled anew; a run holds its layers, so that ids stay.
        shape, options = tuple(x.shape[1:]), [(norm.eps, norm.momentum) for norm in norms]
        key = (begin, *map(id, layers), *options, shape, fold, few)
        runs: dict[Any, Run | None] = self.__dict__.setdefault("_runs", {})
        known, found = key in runs, runs.get(key)
        if not known:
            arena: Arena = self.__dict__.get("_arena") or self.__dict__.setdefault("_arena", Arena())
            found = remember(runs, key, _compile(layers, shape, arena, fold, few), most=SHAPES)
        return found

    def _through(self, run: Run, x: Tensor) -> Tensor:
        if not run.folds:
            training = bool(run.norms) and run.norms[0].training
            y = run_network(x, run.network, slot_tensors(run.network), training=training)
            if training:
                for norm in run.norms:
                    norm.get_buffer("num_batches_tracked").add_(1)
            return y
        return run_network(x, run.network, fold_once(run), training=False)


def tensors_of(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def _layers_from(children: Sequence[nn.Module], begin: int) -> list[nn.Module]:
    """Return the longest run of layers from `begin` on that the kernels can compute one after the other."""
    found: list[nn.Module] = []
    state, norms = _State.IMAGE, set[bool]()
    for child in children[begin:]:
        if hooked(child) or not _understood(child, state):
            break
        if isinstance(child, _NORMS):
            norms.add(child.training)
            if len(norms) > 1:
                break
        if isinstance(child, nn.Flatten) and state is _State.IMAGE:
            state = _State.FLAT
        state = _State.VECTOR if isinstance(child, SparseLinear) else state
        found.append(child)
    # A flatten at the end costs torch nothing, and the kernels a copy.
    while found and isinstance(found[-1], nn.Flatten | nn.Identity | nn.Dropout):
        found.pop()
    return found


def _understood(child: Any, state: _State) -> bool:
    kind, image = type(child), state is _State.IMAGE
    if isinstance(child, SparseConvolution):  # and no subclass, as torch's parametrizations make one
        return kind in (SparseConv1d, SparseConv2d) and image and not child.compute_dense
    if isinstance(child, SparseLinear):
        return kind is SparseLinear and not image and not child.compute_dense
    if isinstance(child, _NORMS):
        plain = kind in _KINDS and child.track_running_stats and child.momentum is not None
        return plain and (image or (state is _State.VECTOR and kind is nn.BatchNorm1d))
    if kind in (nn.MaxPool1d, nn.MaxPool2d):
        return image and not (child.ceil_mode or child.return_indices) and child.dilation in (1, (1,), (1, 1))
    if kind in (nn.AvgPool1d, nn.AvgPool2d):
        return image and not (child.ceil_mode or getattr(child, "divisor_override", None))
    if isinstance(child, nn.Flatten):
        return kind is nn.Flatten and (child.start_dim, child.end_dim) == (1, -1)
    if isinstance(child, nn.Dropout):
        return child.p == 0 or not child.training
    return kind in (nn.ReLU, nn.Identity)


def _compile(layers: Sequence[nn.Module], shape: tuple[int, ...], arena: Arena, fold: bool, few: int) -> Run | None:
    operations = [Operation(Kind.CONVOLUTION, (0,), 1, layers[0], type(layers[0]).__name__)]
    folds: list[tuple[nn.Module | None, nn.Module]] = []
    norms: list[nn.Module] = []
    for layer in layers[1:]:
        kind, before, last = _kind(layer), operations[-1], len(operations)
        if kind is None:
            continue
        if kind is Kind.RELU and before.kind in (Kind.CONVOLUTION, Kind.LINEAR, Kind.NORM):
            operations[-1] = replace(before, relu=True)
        elif fold and kind is Kind.NORM and before.kind in (Kind.CONVOLUTION, Kind.LINEAR) and not before.relu:
            folds.append((before.module, layer))
        else:
            norms += [layer] if kind is Kind.NORM else []
            module = None if kind is Kind.RELU else layer
            operations.append(Operation(kind, (last,), last + 1, module, type(layer).__name__))
    flat = any(isinstance(layer, nn.Flatten) for layer in layers)
    try:
        program = Program(tuple(operations), len(operations), _rank(layers), flat, False)
        network = build_network(program, shape, {}, arena, few=0 if norms else few)
    except UnsupportedError:
        return None  # torch says better what does not fit
    return Run(tuple(layers), network, tuple(norms), tuple(folds))


def _rank(layers: Sequence[nn.Module]) -> int:
    return getattr(layers[0], "rank", 0) if layers else 0


def _kind(layer: nn.Module) -> Kind | None:
    if isinstance(layer, SparseConvolution):
        return Kind.CONVOLUTION
    return Kind.LINEAR if isinstance(layer, SparseLinear) else _KINDS.get(type(layer))


def fold_once(run: Run) -> list[Tensor | None]:
    """Return the run's folded tensors, made anew if one that they are made of was replaced, moved or written to.

    Writes through `tensor.data` are seen by nobody, here as elsewhere in torch.
    """
    sources = [t for layer in run.layers for t in tensors_of(layer)]
    marks = [(id(t), t._version, t.data_ptr()) for t in sources]
    known = run.folded[0] if run.folded else None
    if known is None or known.marks != marks:
        known = _Folded(sources, marks, _fold(run))
        run.folded[:] = [known]
    return known.tensors


def _fold(run: Run) -> list[Tensor | None]:
    """Return the network's tensors, weights and biases scaled by the normalisation behind them.

    γ (w x + b − μ) / √(σ² + ε) + β is w′ x + b′ with w′ = s w, b′ = s (b − μ) + β, s = γ / √(σ² + ε).
    """
    by_layer = {id(layer): norm for layer, norm in run.folds}
    found = zip(run.network.slots, slot_tensors(run.network), strict=True)
    with torch.no_grad():
        tensors = [_folded(m, name, t, by_layer[id(m)]) if id(m) in by_layer else t for (m, name), t in found]
        return [
            t.flatten()[positions_of(m, None)] if t is not None and isinstance(m, nn.Linear) and name == "weight" else t
            for (m, name), t in zip(run.network.slots, tensors, strict=True)
        ]


def _folded(layer: Any, name: str, tensor: Tensor | None, norm: Any) -> Tensor:
    """Return the layer's weights (the surviving `values`, or all) or its bias as the normalisation leaves them."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    if name == "values" and tensor is not None:
        outputs = layer.plan.positions // layer.plan.shape[1:].numel()  # the output that each weight belongs to
        return (tensor.double() * scale[outputs]).float()
    if name == "weight" and tensor is not None:
        return (tensor.double() * scale.view(-1, *[1] * (tensor.dim() - 1))).float()
    bias = -norm.running_mean.double() if tensor is None else tensor.double() - norm.running_mean.double()
    return (bias * scale + (0.0 if norm.bias is None else norm.bias.double())).float()
