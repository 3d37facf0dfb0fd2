"""The sensitivity scan: prune one layer at a time, by magnitude, to ever less, and measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur._base.files import write_whole
from secateur.axes.scope import rms
from secateur.masks import Only, prunable, unwrap
from secateur.measures import preserved
from secateur.selection import check_density, kept_count, topk_mask

#: Your own measurement of a model: its error, loss or whatever else is to stay small.
Evaluate = Callable[[nn.Module], float]

#: Kept fractions of a scan, where no others are asked for.
DENSITIES = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)


@dataclass(frozen=True)
class Level:
    """One layer cut to a fraction of its weights, all others whole.

    Attributes:
        density: the fraction of the layer's weights that was asked for.
        kept: how many stay, ⌊density·n + ½⌋.
        quality: q, so that |w| ≥ q·σ holds of exactly these weights, σ = √(mean of w²): the number for `methods.lwc`.
            Halfway between the two weights at the cut.
        error: what `evaluate` said.
    """

    density: float
    kept: int
    quality: float
    error: float


@dataclass(frozen=True)
class Sensitivity:
    """What a scan found.

    Attributes:
        dense: what `evaluate` said of the network as it is.
        levels: of each layer, from the densest down.
        sizes: the weights of each layer.
    """

    dense: float
    levels: Mapping[str, tuple[Level, ...]]
    sizes: Mapping[str, int]

    def to_csv(self) -> str:
        """Return a table of comma-separated values, one line for each layer and level."""
        lines = ["layer,weights,density,kept,quality,error"]
        for name, levels in self.levels.items():
            quoted = f'"{name}"' if "," in name else name
            for each in levels:
                numbers = f"{each.density:g},{each.kept},{each.quality:.6g},{each.error:.6g}"
                lines.append(f"{quoted},{self.sizes[name]},{numbers}")
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> None:
        """Write `to_csv()` into a file, whole or not at all."""
        write_whole(Path(path), self.to_csv().encode())


def sensitivity(
    model: nn.Module, evaluate: Evaluate, *, densities: Sequence[float] = DENSITIES, only: Only = None
) -> Sensitivity:
    """Measure the error over the kept fraction of each layer, the other layers whole and nothing retrained.

    For layer l and density ρ the κ = ⌊ρn_l + ½⌋ weights of largest magnitude stay, and the model is evaluated as it
    then is. What stays at each level, and the quality q that says the same as a multiple of the layer's deviation, are
    in the answer. It takes one evaluation for each layer and density, and one more.

    Args:
        model: the trained network. It is left as found: values, modes, buffers, random state.
        evaluate: (model) → a number, the lower the better: the error on held-out examples, say. It sets the mode.
        densities: fractions in (0, 1], in any order.
        only: which tensors, see `prunable`.

    Raises:
        SecateurError: a density outside (0, 1], none at all, or an evaluation that is no finite number.

    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, §5 and Figure 6.

    >>> net = nn.Linear(4, 1, bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    >>> found = sensitivity(net, lambda m: 10.0 - float(m.weight.abs().sum()), densities=[1.0, 0.5])
    >>> [(each.kept, each.error) for each in found.levels["weight"]]
    [(4, 0.0), (2, 3.0)]
    """
    wanted = _checked(densities)
    network = unwrap(model)
    params = prunable(network, only, frozen=True)
    with preserved(network, {}), torch.no_grad():
        dense = measured(model, evaluate, "the network as it is")
        levels = {}
        for name, weight in params.items():
            levels[name] = tuple(_level(model, evaluate, name, weight, density) for density in wanted)
    return Sensitivity(dense, levels, {name: weight.numel() for name, weight in params.items()})


def _checked(densities: Sequence[float]) -> list[float]:
    if not densities:
        raise SecateurError("`densities` must be some fractions in (0, 1], got none.")
    for density in densities:
        check_density(density, name="densities")
    return sorted(set(densities), reverse=True)


def _level(model: nn.Module, evaluate: Evaluate, name: str, weight: nn.Parameter, density: float) -> Level:
    kept = kept_count(density, weight.numel())
    mask = largest(weight, kept, name)
    with cut({name: weight}, {name: mask}):
        error = measured(model, evaluate, f"{name!r} at a density of {density:g}")
    return Level(density, kept, quality_of(weight, kept), error)


def largest(weight: Tensor, kept: int, name: str) -> Tensor:
    """Mark the `kept` weights of largest magnitude."""
    return topk_mask({name: weight.detach().abs()}, kept)[name]


def quality_of(weight: Tensor, kept: int) -> float:
    """Return the q for which |w| ≥ q·σ holds of the `kept` largest weights: 0 where all stay."""
    size = weight.detach().abs().double().flatten().sort(descending=True).values
    sigma = float(rms(size))
    if kept >= len(size) or sigma == 0:
        return 0.0
    first_cut = float(size[kept])
    last_kept = float(size[kept - 1]) if kept else 2 * first_cut + sigma
    return (last_kept + first_cut) / 2 / sigma


def measured(model: nn.Module, evaluate: Evaluate, what: str) -> float:
    """Evaluate, and refuse what is no number."""
    found = float(evaluate(model))
    if not math.isfinite(found):
        raise SecateurError(f"`evaluate` must return a finite number, got {found} of {what}.")
    return found


@contextmanager
def cut(params: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Let weights be zero where masks say so, for a while; the bits come back."""
    before = {name: params[name].detach().clone() for name in masks}
    try:
        for name, mask in masks.items():
            params[name].detach().mul_(mask)
        yield
    finally:
        for name, value in before.items():
            params[name].detach().copy_(value)
