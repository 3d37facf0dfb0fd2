"""Evidence that needs no data: the weights themselves, noise, and the scales of the norms behind layers."""

from __future__ import annotations

import torch
from torch import fx, nn

from secateur._base.graphs import graph_of, layers_of
from secateur.masks import layouts
from secateur.measures._measure import Level, Measure, Needs
from secateur.measures._probe import Evidence, Params, Probe
from secateur.measures._reduction import from_first_rank
from secateur.measures._running import Running


class _Weights(Running):
    def update(self, probe: Probe) -> None:
        self.running = probe.weights

    def compute(self) -> Evidence:
        return dict(self.running) or {name: parameter.detach() for name, parameter in self.params.items()}


class _Noise(Running):
    def update(self, probe: Probe) -> None:
        # Drawn on the generator's device, so that a CPU generator gives the same mask to a model on any device.
        where = probe.generator.device if probe.generator is not None else torch.device("cpu")
        self.running = {
            name: torch.rand(p.shape, generator=probe.generator, device=where).to(p.device)
            for name, p in self.params.items()
        }


class _Rows(Running):
    dense = True

    def update(self, probe: Probe) -> None:
        turned = layouts(probe.model, self.params)
        own = probe.weights if self.dense else {name: p.detach() for name, p in self.params.items()}
        weights = {name: turned[name].to_canonical(w) if name in turned else w for name, w in own.items()}
        self.running = {name: weight.reshape(len(weight), -1) for name, weight in weights.items()}

    def compute(self) -> Evidence:
        return dict(self.running)


class _MaskedRows(_Rows):
    dense = False


class _Kernels(_Rows):
    def update(self, probe: Probe) -> None:
        super().update(probe)
        turned, inputs = layouts(probe.model, self.params), {}
        for name, p in self.params.items():
            inputs[name] = (turned[name].to_canonical(p) if name in turned else p).shape[1] if p.dim() > 1 else 1
        self.running = {name: rows.reshape(len(rows), inputs[name], -1) for name, rows in self.running.items()}


class _NormScales(Running):
    def update(self, probe: Probe) -> None:
        scales, outputs = normalised(probe.model, self.params), _outputs(probe.model, self.params)
        top = torch.finfo(torch.float32).max  # of a layer without a norm: `scope.sparing` says what it means
        self.running = {
            name: scales[name].detach().abs().float()
            if name in scales
            else parameter.new_full((outputs[name],), top, dtype=torch.float32)
            for name, parameter in self.params.items()
        }

    def compute(self) -> Evidence:
        return dict(self.running)


def weight() -> Measure:
    """The weight w of each parameter; where masks hide dense weights, the dense ones.

    Read-only: it is the weight's own storage, not a copy.
    """
    return Measure("weight", _Weights, needs=Needs.NOTHING, reduction=None)


def rows(*, masked: bool = False) -> Measure:
    """The filters of each parameter as the rows of a matrix, [out, in·…], however the weight is stored.

    For scores that compare a layer's units with one another, and return one number per unit, or solve a layer as a
    whole, and return one number per entry of the matrix.

    Args:
        masked: as the network multiplies them, zero where something was pruned before; else the dense weights.
    """
    return Measure("rows", _MaskedRows if masked else _Rows, needs=Needs.NOTHING, level=Level.LAYER, reduction=None)


def kernels() -> Measure:
    """The kernels of each parameter, [out, in, positions], however it is stored; in a linear layer each is one number.

    For scores that compare kernels with one another, and return one number per unit.
    """
    return Measure("kernels", _Kernels, needs=Needs.NOTHING, level=Level.LAYER, reduction=None)


def noise() -> Measure:
    """Uniform numbers in [0, 1), one per weight, from the generator passed to `prune`; equal on all ranks."""
    return Measure("noise", _Noise, needs=Needs.NOTHING, reduction=from_first_rank)


def norm_scale() -> Measure:
    """|γ| of the batch norm that reads a layer's output: how much of each unit is passed on.

    One number per output unit, float32. A layer whose output goes elsewhere has the highest finite number, which means
    that it does not compete (`scope.sparing`). See `normalised` for what is paired. Read from the model as it stands:
    it needs no data, and serves `prune` and a `Pruner` alike.
    Source: Liu et al., "Network slimming", arXiv 1708.06519, §3.
    """
    return Measure("norm_scale", _NormScales, needs=Needs.NOTHING, level=Level.UNIT, reduction=None)


def normalised(network: nn.Module, params: Params) -> dict[str, nn.Parameter]:
    """The scale γ of the batch norm behind each layer that feeds one, by the name of the layer's weight.

    A layer has one if its output goes into a `BatchNorm` and nowhere else, and if neither is called twice. It is read
    off a symbolic trace (torch.fx); of a network that cannot be traced nothing is known.
    """
    graph = graph_of(network)
    if graph is None:
        return {}
    found, outputs = {}, _outputs(network, params)
    for name, nodes in layers_of(graph, network, params).items():
        scale = _scale_behind(nodes, graph, network)
        if scale is not None and len(scale) == outputs[name]:
            found[name] = scale
    return found


def _outputs(network: nn.Module, params: Params) -> dict[str, int]:
    """How many units the layer of each parameter has."""
    turned = layouts(network, params)
    return {name: len(turned[name].to_canonical(p)) if name in turned else len(p) for name, p in params.items()}


def _scale_behind(nodes: list[fx.Node], graph: fx.Graph, network: nn.Module) -> nn.Parameter | None:
    readers = [reader for node in nodes for reader in node.users]
    if len(nodes) != 1 or len(readers) != 1 or readers[0].op != "call_module":
        return None
    target = readers[0].target
    norm = network.get_submodule(str(target))
    once = sum(node.op == "call_module" and node.target == target for node in graph.nodes) == 1
    return norm.weight if isinstance(norm, nn.modules.batchnorm._BatchNorm) and once else None
