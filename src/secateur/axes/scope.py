"""Who competes with whom, and how many survive.

A scope takes unit scores (a higher score means keep) and a density, and returns the units to keep. What is chosen is
always chosen in `selection`, exactly and index-stably; a scope only says in which pools.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError, UnfitModelError, nearest
from secateur._base.types import Float
from secateur.axes._layers import (
    ByName,
    by_name,
    convolutions,
    erdos_renyi,
    erk,
    given,
    igq,
    keeping,
    slower_last,
    smart_ratio,
    uniform_plus,
)
from secateur.axes._scope import Keep, Scope, Scores, Shapes, best_of_each, floored, inverted, kappa, living, sparing
from secateur.axes._scope import patterns as patterns
from secateur.selection import at_least, best_prefix, kept_count, topk_mask, topk_rows

__all__ = [
    "Scope",
    "above",
    "by_name",
    "convolutions",
    "erdos_renyi",
    "erk",
    "everywhere",
    "floored",
    "given",
    "igq",
    "inverted",
    "keeping",
    "layerwise",
    "n_of_m",
    "patterns",
    "per_row",
    "ranked_with",
    "relative",
    "rms",
    "slower_last",
    "smart_ratio",
    "sparing",
    "std",
    "threshold",
    "uniform_plus",
]

# --- one pool -----------------------------------------------------------------------------------------------------
Cost = Mapping[str, float] | Callable[[str, torch.Size], float]


def everywhere(*, cost: Cost | None = None) -> Scope:
    """All units of all layers compete in one ranking: κ = ⌊ρN + ½⌋ survive (`density` ρ, N units).

    With `cost`, the price of one unit of each layer (a mapping, or a function of name and weight shape), the longest
    prefix of the ranking is kept whose total cost stays within ρ × the cost of all units.
    """
    if cost is None:
        return Scope("everywhere", _everywhere)
    return Scope(
        "everywhere(cost=…)", _Affordable(cost if callable(cost) else tuple(sorted(cost.items()))), budgeted=True
    )


@dataclass(frozen=True)
class _Affordable:
    """The longest prefix of the ranking that a budget can pay for."""

    cost: Callable[[str, torch.Size], float] | tuple[tuple[str, float], ...]

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        each = {name: self._price(name, shapes[name]) for name in scores}
        budget = density * sum(each[name] * tensor.numel() for name, tensor in scores.items())
        return best_prefix(scores, each, budget)

    def _price(self, name: str, shape: torch.Size) -> float:
        if callable(self.cost):
            return float(self.cost(name, shape))
        prices = dict(self.cost)
        if name not in prices:
            raise SecateurError(
                f"`cost` has no price for {name!r}.{nearest(name, prices)} Priced: {', '.join(prices)}."
            )
        return prices[name]


def _everywhere(scores: Scores, shapes: Shapes, density: float) -> Keep:
    return topk_mask(scores, kappa(density, sum(tensor.numel() for tensor in scores.values())))


def ranked_with(transform: Callable[[Tensor], Tensor]) -> Scope:
    """One ranking over all layers, after `transform` has rescaled each layer's scores (see `lamp`)."""
    return Scope(f"ranked_with({_name(transform)})", _everywhere, rank=transform)


def relative(*, of: Callable[[Tensor], Tensor] | None = None) -> Scope:
    """One ranking over all layers, each layer's scores divided by a statistic of them: `above` with a density.

    With the score |w| that is Han's rule |w| ≥ q·σ_l (arXiv 1506.02626, §3) with one q for all layers, so chosen that
    κ stay.

    Args:
        of: the scores of one layer that are above zero, `[unit]` → a number: `rms` by default, `std` or your own.
    """
    return Scope(f"relative({'' if of is None else f'of={_name(of)}'})", _everywhere, rank=_Relative(of or rms))


@dataclass(frozen=True)
class _Relative:
    of: Callable[[Tensor], Tensor]

    def __call__(self, scores: Tensor) -> Tensor:
        alive = scores[scores > 0]  # what is pruned has a score of zero, and is no part of the statistic
        return scores / self.of(alive).to(scores) if alive.numel() else scores


# --- one pool per layer -------------------------------------------------------------------------------------------


def layerwise() -> Scope:
    """Each layer keeps the same fraction: κ_l = ⌊ρN_l + ½⌋ for every layer l."""
    return Scope("layerwise", _layerwise)


def _layerwise(scores: Scores, shapes: Shapes, density: float) -> Keep:
    counts = {name: kept_count(density, tensor.numel()) for name, tensor in scores.items()}
    if not any(counts.values()):
        kappa(density, max((tensor.numel() for tensor in scores.values()), default=0))
    return best_of_each(scores, counts)


# --- no pool: units against a value -------------------------------------------------------------------------------


def threshold(value: float) -> Scope:
    """Keep every unit whose score is at least `value`, however many that are; the density is ignored."""
    return Scope(f"threshold({value:g})", _Above(value), counted=False)


def rms(scores: Float[Tensor, " unit"]) -> Float[Tensor, ""]:
    """√(mean of s²): of magnitudes |w|, the standard deviation σ of weights whose mean is zero."""
    return scores.double().square().mean().sqrt()


def std(scores: Float[Tensor, " unit"]) -> Float[Tensor, ""]:
    """The standard deviation of the scores themselves, about their mean."""
    return scores.double().std(correction=0)


def above(quality: float | ByName, *, of: Callable[[Tensor], Tensor] = rms) -> Scope:
    """Keep every unit whose score is at least q × a statistic of its layer's; the density is ignored.

    With the score |w|, `of=rms` is Han's rule |w| ≥ q·σ_l (arXiv 1506.02626, §3), σ_l about zero. The statistic sees
    the scores of the layer's living units only: what is pruned already would make it smaller round by round.

    Args:
        quality: q, one for all layers or by name or glob (`{"conv*": 0.5, "fc*": 1.0}`); layers that nothing names
            are kept whole.
        of: the scores of one layer's living units, `[unit]` → a number: `rms`, `std`, `torch.median` or your own.
    """
    text = f"{quality:g}" if isinstance(quality, int | float) else f"{dict(quality)}"
    fixed = quality if isinstance(quality, int | float) else tuple(quality.items())
    return Scope(f"above({text}, of={_name(of)})", _Above(fixed, of), counted=False)


@dataclass(frozen=True)
class _Above:
    value: float | tuple[tuple[str, float], ...]
    of: Callable[[Tensor], Tensor] | None = None

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        if isinstance(self.value, tuple):
            wanted = by_name(dict(self.value), scores, "above")
        else:
            wanted = dict.fromkeys(scores, self.value)
        return {name: self._layer(name, tensor, wanted.get(name)) for name, tensor in scores.items()}

    def _layer(self, name: str, scores: Tensor, value: float | None) -> Tensor:
        alive = living(scores)
        if value is None or not bool(alive.any()):
            return alive
        whole = at_least(scores, -math.inf, name=name)  # NaN and infinities are named before the statistic meets them
        cut = value if self.of is None else value * float(self.of(scores[alive & whole]))
        return at_least(scores, cut, name=name)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", str(function))


# --- smaller pools ------------------------------------------------------------------------------------------------


def per_row() -> Scope:
    """Each output unit keeps the same number of its n inputs: max(1, ⌊ρn + ½⌋), so that no output loses them all.

    The constant-fan-in sparsity of Wanda (arXiv 2306.11695, §3) and SRigL. Below a density of 1/(2n) more stays than
    asked for.
    """
    return Scope("per_row", _per_row)


def _per_row(scores: Scores, shapes: Shapes, density: float) -> Keep:
    keep = {}
    for name, tensor in scores.items():
        rows = tensor.reshape(tensor.shape[0], -1)
        count = min(max(1, kept_count(density, rows.shape[1])), rows.shape[1])
        keep[name] = topk_rows(rows, count, name=name).reshape(tensor.shape)
    return keep


def n_of_m(n: int, m: int, *, rest_whole: bool = False) -> Scope:
    """Keep the best `n` of every `m` consecutive inputs (2:4 is what NVIDIA's sparse tensor cores run).

    Pools lie along the input dimension (dimension 1), as the hardware wants them. The density is n/m by definition:
    a schedule asking for another one is refused. Source: Mishra et al., arXiv 2104.08378, §3.

    Args:
        n: how many of each pool stay.
        m: the size of a pool.
        rest_whole: whether tensors whose inputs `m` does not divide stay whole; otherwise they are refused.
    """
    if not 0 < n <= m:
        raise SecateurError(f"n_of_m needs 0 < n <= m, got n={n}, m={m}.")
    if rest_whole:
        return Scope(f"n_of_m({n}, {m}, rest_whole=True)", _NOfM(n, m, True), counted=False, spares=True)
    return Scope(f"n_of_m({n}, {m})", _NOfM(n, m))


@dataclass(frozen=True)
class _NOfM:
    n: int
    m: int
    rest_whole: bool = False

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        n, m = self.n, self.m
        if not math.isclose(density, n / m):
            raise SecateurError(
                f"n_of_m({n}, {m}) keeps exactly {n / m:g}, got density={density:g}. Ask for {n / m:g}."
            )
        whole = {name for name, tensor in scores.items() if self.rest_whole and not self._fits(tensor)}
        if len(whole) == len(scores):
            raise UnfitModelError(
                f"{m} divides the number of inputs of none of {', '.join(scores)}: none would be cut. Take another m."
            )
        return {name: living(t) if name in whole else self._layer(name, t) for name, t in scores.items()}

    def _fits(self, scores: Tensor) -> bool:
        return scores.dim() > 1 and scores.shape[1] % self.m == 0

    def _layer(self, name: str, scores: Tensor) -> Tensor:
        n, m = self.n, self.m
        if not self._fits(scores):
            raise SecateurError(
                f"n_of_m({n}, {m}) needs a number of inputs divisible by {m}, got {name!r} of shape "
                f"{tuple(scores.shape)}. Leave the tensor out with `only=`."
            )
        inputs_last = scores.movedim(1, -1)
        bits = topk_rows(inputs_last.reshape(-1, m), n, name=name).reshape(inputs_last.shape)
        return bits.movedim(-1, 1).contiguous()
