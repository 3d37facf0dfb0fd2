"""Below which density a sparse layer is faster than a dense one: timed on a few sizes, then solved for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from secateur.sparse.layers import (
    OneDnnLinear,
    SparseLinear,
    dense_linear,
    onednn_available,
    sparse_convolution,
    sparse_recurrent,
)
from secateur.sparse.timing import interleaved

_LOW, _HIGH = 0.02, 0.2  # of linear and recurrent layers, whose time is a line over the density
_STEPS = 8  # of a recurrent layer

Layer = TypeVar("Layer", bound=nn.Module)
Masked = Callable[[float], dict[str, Tensor]]


def faster_with_onednn(generator: torch.Generator) -> bool:
    """Tell whether oneDNN is the faster dense product here."""
    if not onednn_available():
        return False
    x, weight = torch.rand(128, 1024, generator=generator), torch.rand(1024, 1024, generator=generator)
    stock, other = _seconds([partial(dense_linear, x, weight, None, onednn=onednn) for onednn in (False, True)])
    return other < 0.95 * stock


def calibrate_linear(size: int, batch: int, onednn: bool, generator: torch.Generator) -> float:
    """Measure the density below which a linear layer's forward and backward are faster sparse."""
    dense, masks = _random(nn.Linear(size, size, device="meta"), generator)
    sparse = [SparseLinear.from_dense(dense, masks(density)["weight"]) for density in (_LOW, _HIGH)]
    ways = [dense, OneDnnLinear.from_dense(dense)] if onednn else [dense]
    first, second, *whole = _training_seconds([*sparse, *ways], (batch, size), generator)
    return line_crossing(first, second, min(whole))


def calibrate_recurrent(size: int, batch: int, gru: bool, generator: torch.Generator) -> float:
    """Measure the same density of a recurrent layer."""
    dense, masks = _random((nn.GRU if gru else nn.LSTM)(size, size, device="meta"), generator)
    sparse = [sparse_recurrent(dense, masks(density)) for density in (_LOW, _HIGH)]
    return line_crossing(*_training_seconds([*sparse, dense], (_STEPS, batch, size), generator))


def calibrate_convolution(generator: torch.Generator) -> float:
    """Measure the same density of a 3×3 convolution of 64 channels on 16×16 images; packing them is included."""
    dense, masks = _random(nn.Conv2d(64, 64, 3, padding=1, device="meta"), generator)
    densities = (0.1, 0.4, 0.7, 1.0)
    sparse = [sparse_convolution(dense, masks(density)["weight"]) for density in densities]
    *times, whole = _training_seconds([*sparse, dense], (32, 64, 16, 16), generator)
    return crossing(densities, times, whole)


def line_crossing(first: float, second: float, level: float) -> float:
    """Solve a + b · density = level, a and b from the times at the two densities; in [0, 1].

    >>> line_crossing(1.0, 2.0, 1.0), line_crossing(1.0, 2.0, 99.0)
    (0.02, 1.0)
    """
    slope = max((second - first) / (_HIGH - _LOW), 1e-12)
    return min(max((level - first) / slope + _LOW, 0.0), 1.0)


def crossing(densities: Sequence[float], times: Sequence[float], level: float) -> float:
    """Return the density at which a line through the points first passes the level; 1 if it never does.

    >>> crossing((0.1, 0.5, 1.0), [1.0, 2.0, 4.0], 3.0)
    0.75
    """
    if times[0] >= level:
        return densities[0] * level / times[0]
    for i in range(1, len(times)):
        if times[i] >= level:
            share = (level - times[i - 1]) / (times[i] - times[i - 1])
            return densities[i - 1] + share * (densities[i] - densities[i - 1])
    return 1.0


def _random(layer: Layer, generator: torch.Generator) -> tuple[Layer, Masked]:
    """Fill a layer made on "meta", so that torch's RNG stays as it was; return it, and random masks by density."""
    layer, order = layer.to_empty(device="cpu"), dict[str, Tensor]()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=generator) - 0.5) / parameter.shape[-1] ** 0.5)
            if name.startswith("weight"):
                order[name] = torch.rand(parameter.shape, generator=generator)
    return layer, lambda density: {name: places < density for name, places in order.items()}


def _training_seconds(layers: Sequence[nn.Module], shape: tuple[int, ...], generator: torch.Generator) -> list[float]:
    """Time forward and backward of each layer, interleaved; its inputs and outputs are of this shape."""
    x, dy = torch.rand(shape, generator=generator).requires_grad_(), torch.rand(shape, generator=generator)

    def train(layer: nn.Module) -> None:
        y = layer(x)
        torch.autograd.grad(y if isinstance(y, Tensor) else y[0], [x, *layer.parameters()], dy)

    return _seconds([partial(train, layer) for layer in layers])


def _seconds(candidates: Sequence[Callable[[], object]]) -> list[float]:
    named = {str(i): candidate for i, candidate in enumerate(candidates)}
    return list(interleaved(named, seconds=0.15, rounds=(5, 60), statistic=min).values())
