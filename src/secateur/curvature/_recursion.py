"""LeCun's recursion: second derivatives carried back through a chain of layers, as gradients are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from secateur._base.errors import UnfitModelError
from secateur.measures import Collector, Evidence, Measure, Params, Probe, Running

__all__ = ["lecun_diag"]

_PRODUCTS = (nn.Linear, nn.modules.conv._ConvNd)
_ENTRYWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign,
    nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.modules.batchnorm._BatchNorm,
)  # fmt: skip
_SELECTIONS = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
)  # fmt: skip
_MEANS = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip


@dataclass(frozen=True)
class _Begin:
    """Begins a collector; two alike are equal."""

    levenberg: bool

    def __call__(self, params: Params) -> Collector:
        return _Recursion(params, self.levenberg)


class _Recursion(Running):
    """Σ_b of the recursion on the loss of each batch, in float64."""

    def __init__(self, params: Params, levenberg: bool) -> None:
        super().__init__(params)
        self._levenberg = levenberg

    def update(self, probe: Probe) -> None:
        layers = list(_chain(probe.model, ""))
        calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        inside = [layer for layer in layers if getattr(layer, "inplace", False)]
        handles = [layer.register_forward_hook(partial(_note, calls)) for layer in dict.fromkeys(layers)]
        try:
            for layer in inside:  # what goes into a layer must still be there afterwards
                layer.inplace = False  # type: ignore[assignment]
            loss = probe.evaluate()
        finally:
            for layer in inside:
                layer.inplace = True  # type: ignore[assignment]
            for handle in handles:
                handle.remove()
        with torch.enable_grad():
            self.fold(self._back(probe, loss, calls))

    def _back(self, probe: Probe, loss: Tensor, calls: list[tuple[nn.Module, Tensor, Tensor]]) -> Evidence:
        names = {id(parameter): name for name, parameter in probe.params.items()}
        slopes: list[Tensor | None] = [None] * len(calls)
        if not self._levenberg:
            slopes = list(torch.autograd.grad(loss, [y for *_, y in calls], retain_graph=True, allow_unused=True))
        curvature, found = _at_output(loss, calls[-1][2]), {}
        for (layer, x, y), slope in zip(reversed(calls), reversed(slopes), strict=True):
            name = names.get(id(layer._parameters.get("weight")))
            if name is not None and isinstance(layer, _PRODUCTS):
                term = _of_weight(layer, x.detach().double(), curvature)
                found[name] = found[name] + term if name in found else term
            curvature = _of_input(layer, x.detach().double(), y, curvature, slope)
            curvature = curvature.clamp(min=0) if self._levenberg else curvature
        return found


def _note(calls: list[tuple[nn.Module, Tensor, Tensor]], layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
    calls.append((layer, args[0], y))


def _chain(model: nn.Module, prefix: str) -> Iterator[nn.Module]:
    if isinstance(model, nn.Sequential):
        for name, child in model.named_children():
            yield from _chain(child, f"{prefix}{name}.")
        return
    if not isinstance(model, (*_PRODUCTS, *_ENTRYWISE, *_SELECTIONS, *_MEANS)):
        raise UnfitModelError(
            f"LeCun's recursion runs through chains: an nn.Sequential of linear layers, convolutions, activations and "
            f"pooling. {prefix.rstrip('.') or 'The model'} is a {type(model).__name__}. Take "
            "measures.hessian_diag() or curvature.ggn_diag(), which know any model."
        )
    yield model


def _at_output(loss: Tensor, output: Tensor) -> Tensor:
    """∂²L/∂y² of each entry: one product with the Hessian for each output, all samples at once."""
    (slope,) = torch.autograd.grad(loss, output, create_graph=True)
    found = torch.zeros_like(output, dtype=torch.float64)
    if not slope.requires_grad:
        return found
    rows = found.view(len(output), -1)
    for k in range(rows.shape[1]):
        along = slope.reshape(len(output), -1)[:, k].sum()
        (product,) = torch.autograd.grad(along, output, retain_graph=True, allow_unused=True)
        if product is not None:
            rows[:, k] = product.reshape(len(output), -1)[:, k].double()
    return found


def _of_weight(layer: nn.Module, x: Tensor, curvature: Tensor) -> Tensor:
    """∂²L/∂w_ij² = Σ ∂²L/∂a_i² x_j²: over samples, and over the places that share the weight."""
    weight = layer.get_parameter("weight").detach().double().requires_grad_()
    y = functional_call(layer, _values(layer, weight), (x.square(),))
    return torch.autograd.grad(y, weight, curvature)[0]


def _of_input(layer: nn.Module, x: Tensor, y: Tensor, curvature: Tensor, slope: Tensor | None) -> Tensor:
    x = x.requires_grad_()
    if isinstance(layer, _PRODUCTS):
        out = functional_call(layer, _values(layer, layer.get_parameter("weight").detach().double().square()), (x,))
        return torch.autograd.grad(out, x, curvature)[0]
    out = functional_call(layer, {n: v.detach().double() for n, v in _floats(layer)}, (x.clone(),))
    if not isinstance(layer, _ENTRYWISE):
        share = _share(layer, x) if isinstance(layer, _MEANS) else 1.0
        return torch.autograd.grad(out, x, curvature)[0] * share
    (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    found = first.detach().square() * curvature
    if slope is not None and first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), x, allow_unused=True)
        found = found if second is None else found + second * slope.double()
    return found


def _values(layer: nn.Module, weight: Tensor) -> dict[str, Tensor]:
    return {"weight": weight} | {
        name: torch.zeros_like(p).double() for name, p in layer.named_parameters() if name == "bias"
    }


def _floats(layer: nn.Module) -> list[tuple[str, Tensor]]:
    return [(n, v) for n, v in (*layer.named_parameters(), *layer.named_buffers()) if v.is_floating_point()]


def _share(layer: nn.Module, x: Tensor) -> float:
    """1/k of a mean over k entries, whose squares are (1/k)²."""
    size: Any = getattr(layer, "kernel_size", None)
    rank = next(k for k in (1, 2, 3) if type(layer).__name__.endswith(f"{k}d"))
    if size is None:
        given: Any = layer.output_size
        wanted = given if isinstance(given, tuple) else (given,) * rank
        places = list(zip(x.shape[-rank:], wanted, strict=True))
        if any(out is not None and length % int(out) for length, out in places):
            raise UnfitModelError(
                f"LeCun's recursion needs pooling windows of one size, and {layer} makes windows of several from "
                f"{tuple(x.shape[-rank:])}. Take measures.hessian_diag() or curvature.ggn_diag()."
            )
        return 1 / math.prod(length // int(out) for length, out in places if out is not None)
    return 1 / math.prod(size if isinstance(size, tuple) else (size,) * rank)


def lecun_diag(*, levenberg: bool = True) -> Measure:
    """Second derivatives h_k = ∂²L/∂w_k² by LeCun's recursion, one backward sweep through a chain of layers; float64.

    With a_i = Σ_j w_ij x_j: ∂²L/∂w_ij² = x_j² ∂²L/∂a_i², summed over all places that share the weight, and back to the
    layer before ∂²L/∂x_j² = Σ_i w_ij² ∂²L/∂a_i², ∂²L/∂a² = f′(a)² ∂²L/∂x² + f″(a) ∂L/∂x. It starts from the diagonal of
    the loss by the outputs and leaves out what lies beside the diagonal of each layer, so that it is exact for two
    layers of weights under a squared error. Batches add up; eval mode. Memory: the activations of a batch, in float64.

    Args:
        levenberg: drop the term in f″ and keep every h at least 0 (the Levenberg-Marquardt form); False keeps it.

    Raises:
        UnfitModelError: a model that is no `nn.Sequential` of layers that are known here.

    Source: LeCun, Denker & Solla, "Optimal Brain Damage", NIPS 1989, eqs. 7 to 11; from memory: LeCun's thesis, 1987.
    """
    return Measure("lecun_diag", _Begin(levenberg), train=False)
