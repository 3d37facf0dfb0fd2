"""Neuron importance: the worth of a network's final responses, propagated back through absolute weights (NISP)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, UnfitModelError
from secateur.masks import Layout, layouts
from secateur.measures import (
    Level,
    Measure,
    Needs,
    Params,
    Probe,
    Running,
    from_all_ranks,
    ones_like_inputs,
    recast_buffers,
    swapped,
)
from secateur.propagation._infinite import infinite_selection
from secateur.propagation._linearised import Linearised
from secateur.selection import kept_count

#: Responses, T × n → the importance of each, n numbers.
Ranking = Callable[[Tensor], Tensor]

_MOST = 4096  # rows of responses that are ranked: an evenly spaced choice of all that were seen


@dataclass(frozen=True)
class _Begin:
    """Begins a collector; two alike are equal, as measures and methods are."""

    ranking: Ranking
    keep: float | None
    scaled: bool

    def __call__(self, params: Params) -> _Importance:
        return _Importance(params, self.ranking, self.keep, self.scaled)


@dataclass
class _Layers:
    """The layers that own prunable weights, and what was seen of all layers with weights in one forward."""

    owners: dict[nn.Module, str]
    order: list[nn.Module] = field(default_factory=list)
    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)

    def note(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point() and isinstance(output, Tensor):
            self.order.append(layer)
            self.inputs[layer] = args[0]


class _Importance(Running):
    """First pass: what the final response layer says of the data. Second: one backward sweep from its importances."""

    passes = 2

    def __init__(self, params: Params, ranking: Ranking, keep: float | None, scaled: bool) -> None:
        super().__init__(params)
        self._ranking, self._keep, self._scaled = ranking, keep, scaled
        self._responses: list[Tensor] = []

    def update(self, probe: Probe) -> None:
        if probe.pass_ == 0:
            with torch.no_grad(), _seen(probe) as layers:
                probe.run()
            self._responses.append(_rows(layers.inputs[_last(layers)], _last(layers)).double())
        elif not self.updates:
            self._sweep(probe)

    def _sweep(self, probe: Probe) -> None:
        rows = from_all_ranks(torch.cat(self._responses))
        rows = rows[:: max(1, len(rows) // _MOST)]
        importance = self._ranking(rows)
        with (
            _absolute(probe.model),
            Linearised(scaled=self._scaled),
            torch.enable_grad(),
            _seen(probe, self._pass_on) as layers,
        ):
            replace(probe, batch=(ones_like_inputs(probe.inputs), None)).run()
            last = _last(layers)
            response = layers.inputs[last]
            start = _spread(importance, response, last)
            if response.requires_grad:
                torch.autograd.grad(response, list(probe.model.parameters()), start, allow_unused=True)
        self._complete(layers, last, layouts(probe.model, self.params))
        self.updates += 1

    def _complete(self, layers: _Layers, last: nn.Module, turned: Mapping[str, Layout]) -> None:
        """The outputs of the layer behind the responses are what they are important for: all alike."""
        missing = [name for name in self.params if name not in self.running]
        for name in missing:
            if layers.owners.get(last) != name:
                raise UnfitModelError(
                    f"no importance reaches {name!r}: it goes back from the inputs of the last layer through Linear "
                    "and convolution layers (not through recurrent layers, attention's own projections, or layers "
                    "beside the path). Leave it out with `only=`."
                )
            weight = self.params[name]
            units = len(turned[name].to_canonical(weight)) if name in turned else len(weight)
            self.running[name] = torch.ones(units, dtype=torch.float64, device=weight.device)

    def _pass_on(self, name: str, layer: nn.Module, importance: Tensor) -> Tensor:
        """Add up each unit's importance over its positions; the units that will go pass nothing on."""
        channel = _channel(layer, importance)
        scores = importance.transpose(channel, -1).reshape(-1, importance.shape[channel]).sum(0)
        self.running[name] = self.running[name] + scores if name in self.running else scores
        if self._keep is None:
            return importance
        stay = torch.zeros_like(scores)
        stay[scores.argsort(descending=True, stable=True)[: kept_count(self._keep, len(scores))]] = 1
        return importance * stay.reshape(-1, *[1] * (importance.dim() - 1 - channel % importance.dim()))


@contextmanager
def _seen(probe: Probe, backward: Callable[[str, nn.Module, Tensor], Tensor] | None = None) -> Iterator[_Layers]:
    """Watch all layers with weights in a forward, and have `backward` look at what comes back to the prunable ones."""
    names = {id(parameter): name for name, parameter in probe.params.items()}
    owners = {
        module: names[id(weight)]
        for module in probe.model.modules()
        if isinstance(weight := module._parameters.get("weight"), nn.Parameter) and id(weight) in names
    }
    layers = _Layers(owners)

    def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        layers.note(layer, args, output)
        if backward is not None and layer in owners and isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(partial(backward, owners[layer], layer))

    watched = [m for m in probe.model.modules() if isinstance(m._parameters.get("weight"), nn.Parameter)]
    handles = [m.register_forward_hook(after) for m in watched if m.get_parameter("weight").dim() > 1]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _absolute(model: nn.Module) -> Iterator[None]:
    """|w| for every weight of two dimensions or more, 0 for biases; everything else passes on, in float64."""
    values = {
        name: p.detach().double().abs() if p.dim() > 1 or not name.endswith("bias") else torch.zeros_like(p).double()
        for name, p in model.named_parameters()
    }
    with swapped(dict(model.named_parameters()), values), recast_buffers(model, None, torch.float64):
        yield


def _last(layers: _Layers) -> nn.Module:
    if not layers.order:
        raise UnfitModelError(
            "importance propagates through layers with weights, and none was called with a tensor: the model has no "
            "Linear or convolution, or they are called by other names than forward."
        )
    return layers.order[-1]


def _channel(layer: nn.Module, tensor: Tensor) -> int:
    """The dimension of a layer's outputs and inputs that its units lie along."""
    kernel = getattr(layer, "kernel_size", None)
    return -1 if kernel is None else tensor.dim() - 1 - len(kernel)


def _rows(responses: Tensor, layer: nn.Module) -> Tensor:
    channel = _channel(layer, responses)
    return responses.detach().movedim(channel, -1).reshape(-1, responses.shape[channel])


def _spread(importance: Tensor, response: Tensor, layer: nn.Module) -> Tensor:
    channel = _channel(layer, response)
    shape = [1] * response.dim()
    shape[channel] = -1
    return importance.to(response.device, response.dtype).reshape(shape).expand(response.shape)


def importance(*, ranking: Ranking = infinite_selection, keep: float | None = None, scaled: bool = False) -> Measure:
    """Importance of each unit for the responses before the last layer: s_l = |W_{l+1}|ᵀ s_{l+1}, back from s_n.

    s_n = ranking(responses), by default `infinite_selection` of the inputs that the last layer gets; a
    channel's importance is the sum over its positions. Activations, dropout and normalisations of activations pass
    importance on, every input of a max-pooling window receives the window's, average pooling shares it out, a sum gives
    it to both of its terms, and a product to each of its factors as many times as the other is at an input of ones. One
    number per output unit, float64; units of the layer behind the responses are all worth 1. Under torch.distributed
    the responses are those of all ranks.

    Args:
        ranking: what the responses are worth: (T × n) → n.
        keep: the fraction of each layer's units that will stay: the others pass nothing on to the layers before them
            (the paper prunes while it propagates); None: all do.
        scaled: whether batch norm scales importance by |γ|/√(σ² + ε) instead of passing it on.

    Source: Yu et al., "NISP", arXiv 1711.05908, eq. 18 and 19, §3.3.
    Deviates: rules for layers without weights are ours (the paper has none for batch norm).
    """
    if keep is not None and not 0 < keep <= 1:
        raise SecateurError(f"`keep` must be in (0, 1], got {keep}: the fraction of each layer's units that will stay.")
    return Measure(
        "importance", _Begin(ranking, keep, scaled), needs=Needs.INPUTS, level=Level.UNIT, train=False, reduction=None
    )
