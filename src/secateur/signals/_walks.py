"""PHEW's walks from inputs to outputs and back, which prefer large weights: which weights they come by, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import UnfitModelError
from secateur.masks import layouts
from secateur.measures import (
    Call,
    Collector,
    Measure,
    Needs,
    Params,
    Probe,
    Running,
    from_first_rank,
    watched,
)
from secateur.selection import check_density, kept_count

__all__ = ["walks"]

_AT_ONCE = 2048  # walks that are drawn together
_PATIENCE = 50  # walks for each weight that is wanted, after which the largest of the others are taken
_FITTING = 20_000  # walks among which one is looked for that brings no more new weights than are wanted

Numbers = np.ndarray


@dataclass(frozen=True)
class _Layer:
    """One layer's weights by magnitude, for steps in both directions.

    Args:
        ahead: cumulative |w| in the order (unit in front, …), and where each of those weights stands in the tensor.
        back: cumulative |w| in the tensor's own order (unit behind, …).
    """

    first: int
    sizes: tuple[int, int]
    ahead: Numbers
    places: Numbers
    back: Numbers
    source: Numbers
    width: int

    def step(self, units: Numbers, draws: Numbers, *, forward: bool) -> tuple[Numbers, Numbers]:
        """From units of one side: the number of a weight drawn in proportion to |w|, and the unit on its other side."""
        table = self.ahead if forward else self.back
        width = len(table) // self.sizes[0 if forward else 1]
        start, end = units * width, (units + 1) * width - 1
        low = np.where(start > 0, table[np.maximum(start - 1, 0)], 0.0)
        wanted = low + draws * (table[end] - low)
        entry = np.clip(np.searchsorted(table, wanted, side="right"), start, end)
        dead = table[end] <= low
        weight = self.places[entry] if forward else entry
        unit = weight // self.width if forward else self.source[entry]
        return np.where(dead, -1, weight + self.first), unit


def _layer(weight: Tensor, units: int, first: int) -> _Layer:
    """Lay a tensor [out, in, …] out for walks; a linear layer behind a convolution reads each channel many times."""
    size = weight.detach().abs().double().cpu()
    outputs = size.shape[0]
    grouped = size.reshape(outputs, units, -1)  # [out, unit in front, inputs of that unit and kernel positions]
    numbers = torch.arange(size.numel()).reshape(grouped.shape)
    source = torch.arange(units)[None, :, None].expand(grouped.shape).reshape(-1)
    ahead = grouped.transpose(0, 1).reshape(-1).numpy()
    places = numbers.transpose(0, 1).reshape(-1).numpy()
    back = size.reshape(-1).numpy()
    return _Layer(
        first, (units, outputs), np.cumsum(ahead), places, np.cumsum(back), source.numpy(), size.numel() // outputs
    )


def _drawn(layers: Sequence[_Layer], generator: torch.Generator | None) -> Iterator[Numbers]:
    """Yield walks, some at a time, as numbers of weights: forwards from each input in turn, and backwards by turns."""
    where = torch.device("cpu") if generator is None else generator.device
    begun = 0
    while True:
        turns = np.arange(begun, begun + _AT_ONCE)
        begun += _AT_ONCE
        found = np.empty((_AT_ONCE, 2, len(layers)), dtype=np.int64)
        for way, order in ((0, layers), (1, layers[::-1])):
            units = turns % (layers[0].sizes[0] if way == 0 else layers[-1].sizes[1])
            for layer in order:
                draws = torch.rand(_AT_ONCE, generator=generator, device=where, dtype=torch.float64).cpu().numpy()
                depth = layers.index(layer)
                found[:, way, depth], units = layer.step(units, draws, forward=way == 0)
        whole = found.reshape(-1, len(layers))
        yield whole[(whole >= 0).all(1)]


def _visited(layers: Sequence[_Layer], keep: int, generator: torch.Generator | None) -> list[int]:
    """The first `keep` weights that walks come by, each walk whole; fewer where patience ends."""
    seen: dict[int, None] = {}
    walked = fitting = 0
    for some in _drawn(layers, generator):
        for path in some.tolist():
            new = [number for number in path if number not in seen]
            if len(seen) + len(new) <= keep:
                seen.update(dict.fromkeys(new))
            else:
                fitting += 1
            if len(seen) == keep:
                return list(seen)
        walked += len(some)
        if fitting > _FITTING or walked > _PATIENCE * keep or not len(some):
            return list(seen)
    return list(seen)


@dataclass(frozen=True)
class _Begin:
    keep: float

    def __call__(self, params: Params) -> Collector:
        return _Walks(params, self.keep)


class _Walks(Running):
    def __init__(self, params: Params, keep: float) -> None:
        super().__init__(params)
        self._keep = keep

    def update(self, probe: Probe) -> None:
        weights, calls = probe.weights, _calls(probe, self.params)
        turned = layouts(probe.model, self.params)
        stored = {n: turned[n].to_canonical(w) if n in turned else w for n, w in weights.items()}
        layers, first, units = [], 0, None
        for name in calls:
            inputs = stored[name].shape[1]
            layers.append(
                _layer(stored[name].contiguous(), inputs if units is None or inputs < units else units, first)
            )
            first, units = first + stored[name].numel(), stored[name].shape[0]
        keep = kept_count(self._keep, first)
        order = torch.tensor(_visited(layers, keep, probe.generator), dtype=torch.long)
        largest = max(float(weight.abs().max()) for weight in weights.values()) or 1.0
        # Below 1: what no walk came by, the largest first, for densities that walks would take for ever to fill.
        worth = torch.cat([(stored[name].detach().double().abs().cpu() / (2 * largest)).flatten() for name in calls])
        worth[order] = 1 + torch.arange(len(order), 0, -1, dtype=torch.float64)
        parts = worth.split([stored[name].numel() for name in calls])
        found = {n: part.reshape(stored[n].shape) for n, part in zip(calls, parts, strict=True)}
        self.fold(
            {n: (turned[n].from_canonical(s) if n in turned else s).to(weights[n].device) for n, s in found.items()}
        )


def _calls(probe: Probe, params: Params) -> list[str]:
    """The weights in the order of their calls, if each layer reads what the one before it wrote."""
    seen: list[Call] = []
    with torch.no_grad(), watched(probe.model, params, seen.append):
        probe.run()
    names = [call.name for call in seen]
    fits = all(_reads(one, two) for one, two in pairwise(seen))
    if sorted(names) != sorted(params) or not fits or any(call.groups > 1 for call in seen):
        raise UnfitModelError(
            "Walks go from layer to layer of a chain: each prunable layer called once, and reading what the one before "
            f"wrote; here the calls are {', '.join(names)}. Leave layers beside the chain out with `only=`, or take "
            "methods.synflow, which is data-free too and follows any path."
        )
    return names


def _reads(one: Call, two: Call) -> bool:
    written, read = one.matrix.shape[0], two.matrix.shape[1]
    flattened = two.weight.dim() == 2 and one.weight.dim() > 2
    return read == written or (flattened and read % written == 0)


def walks(*, keep: float) -> Measure:
    """When random walks first come by each weight: n, n − 1, … for the first n = κ weights, less than 1 for the others.

    A walk starts at each input in turn, or, every second one, backwards at each output, and goes from unit j to unit i
    with probability |w_ij| / Σ_i |w_ij|: of a convolution first to a channel, by the 1-norm of the kernel between them,
    then to a position. A walk that would bring more new weights than are still wanted is left out, and others are
    looked for that fit, so that every weight lies on a whole path. Below 1 are all others, by magnitude.

    Args:
        keep: κ as a fraction of all weights. From about a half on, walks meet hardly anything new, and the largest of
            the others fill up.

    Raises:
        UnfitModelError: the layers are no chain.

    Source: Patil & Dovrolis, "PHEW", arXiv 2010.11354, §4.
    """
    check_density(keep, name="keep")
    return Measure("walks", _Begin(keep), needs=Needs.SHAPES, train=False, reduction=from_first_rank)
