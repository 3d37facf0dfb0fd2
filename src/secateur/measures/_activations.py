"""The one place that hooks layers: what goes into each, what comes out, and the gradient of the loss there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import UnfitModelError
from secateur.masks import layouts
from secateur.measures._probe import Params, Probe
from secateur.measures._running import Running

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes:
        name: the parameter's name, the layer's weight.
        layer: the module whose weight it is.
        inputs: what went in, (…, in) for linear layers, (samples, channels, …) for convolutions.
        outputs: what came out, in the same layout; before anything that a following layer does to it in place.
        grad: ∂L/∂outputs, where it was asked for.
    """

    name: str
    layer: nn.Module
    inputs: Tensor
    outputs: Tensor
    grad: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        return self.layer.get_parameter("weight")

    @property
    def matrix(self) -> Tensor:
        """The layer's weight with its outputs first, however it is stored."""
        return self.weight.T if _is_transposed(self.layer) else self.weight

    @property
    def groups(self) -> int:
        """In how many groups a convolution splits its channels; 1 for other layers."""
        return self.layer.groups if isinstance(self.layer, _CONVOLUTIONS) else 1

    def patches(self) -> Tensor:
        """Return what each output position sees, as a view: (samples, groups, positions…, entries…).

        `entries` are the dimensions of one output unit's weight: (in,) for a linear layer, (channels of the group,
        kernel…) for a convolution, whose stride, padding and dilation are taken into account.
        """
        if not isinstance(self.layer, _CONVOLUTIONS):
            return self.inputs.reshape(-1, 1, self.inputs.shape[-1])
        layer = self.layer
        x = self.inputs if self.inputs.dim() == layer.weight.dim() else self.inputs[None]
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        x = x.unflatten(1, (layer.groups, -1))
        sizes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
        for axis, (size, stride, dilation) in enumerate(sizes):
            x = x.unfold(3 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        return x.movedim(2, 2 + len(layer.kernel_size))

    def units(self, values: Tensor) -> Tensor:
        """Bring the outputs, or their gradient, into the shape (samples and positions, units)."""
        if isinstance(self.layer, _CONVOLUTIONS):
            values = values.movedim(-len(self.layer.kernel_size) - 1, -1)
        return values.reshape(-1, values.shape[-1])

    def per_entry(self, values: Tensor) -> Tensor:
        """Bring (groups, entries…) into a shape that broadcasts to the weight's."""
        if self.groups > 1:  # every output unit reads the channels of its own group
            return values.repeat_interleave(self.weight.shape[0] // self.groups, 0)
        return values.flatten()[:, None] if _is_transposed(self.layer) else values


class LayerCollector(Running):
    """Base of collectors that look at activations: `see` is told of every call of every layer with a given weight."""

    def update(self, probe: Probe) -> None:
        """Run the inputs, without labels and without a graph."""
        with torch.no_grad(), watched(probe.model, self.params, self.see):
            probe.run()

    def see(self, call: Call) -> None:
        """Take in one call of one layer."""
        raise NotImplementedError

    def accumulate(self, name: str, term: Tensor) -> None:
        """Σ over the calls: of one layer in a batch, of several that share a weight, and of all batches."""
        self.running[name] = self._writable(name).add_(term) if name in self.running else term
        self._own.add(name)


@contextmanager
def watched(model: nn.Module, params: Params, see: Callable[[Call], None]) -> Iterator[None]:
    """Call `see` for every call of a layer whose weight is among `params`. On leaving the hooks are gone.

    Where outputs carry a graph, `see` is called when the gradient of the loss reaches them (run a backward inside),
    with that gradient; otherwise at once.

    Raises:
        SecateurError: a tensor whose inputs no hook can see (RNN, attention, transposed convolution, a bias).
    """
    layers = list(_layers(model, params))  # all of them are looked at before the first is hooked
    handles = [layer.register_forward_hook(partial(_hook, name, see), with_kwargs=True) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(
    name: str, see: Callable[[Call], None], layer: nn.Module, args: Any, kwargs: Any, output: Tensor
) -> Tensor | None:
    inputs = (args[0] if args else next(iter(kwargs.values()))).detach()
    if not (torch.is_grad_enabled() and output.requires_grad):
        see(Call(name, layer, inputs, output.detach()))
        return None
    output.register_hook(lambda grad: see(Call(name, layer, inputs, output.detach(), grad.detach())))
    return output.clone()  # what follows may work in place; the layer's own output and its gradient stay as they are


def _layers(model: nn.Module, params: Params) -> Iterator[tuple[str, nn.Module]]:
    """Yield each weight with the module that owns it; with each of them, where several share it."""
    names = {id(parameter): name for name, parameter in params.items()}
    # Attention projects inside one fused call: its child `out_proj` is a Linear that is never called.
    attention = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    hidden = {id(module.out_proj.weight): "MultiheadAttention" for module in attention}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in names:
                continue
            name = names[id(parameter)]
            plain = isinstance(module, (nn.Linear, *_CONVOLUTIONS)) or _is_transposed(module)
            if attribute != "weight" or not plain or id(parameter) in hidden:
                kind = hidden.get(id(parameter), type(module).__name__)
                raise UnfitModelError(
                    f"The inputs that {name!r} ({kind}) multiplies cannot be seen: expected the weight of a Linear, "
                    "Conv1d, Conv2d or Conv3d layer. Leave it out with `only=`."
                )
            yield name, module


def _is_transposed(layer: nn.Module) -> bool:
    """Whether it is a linear layer whose weight is (in, out), as GPT-2's `Conv1D`."""
    return not isinstance(layer, nn.modules.conv._ConvNd) and "weight" in layouts(layer)
