"""Who competes with whom, and how many survive.

A scope takes unit scores (a higher score means keep) and a density, and returns the units to keep. What is chosen is
always chosen in `select`, exactly and index-stably; a scope only says in which pools.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur._base.errors import SecateurError, nearest
from secateur.axes._quota import erk_densities, igq_densities, largest_remainder
from secateur.selection import at_least, best_prefix, check_density, kept_count, topk_mask, topk_rows

Scores = Mapping[str, Tensor]
Shapes = Mapping[str, torch.Size]
Keep = dict[str, Tensor]
Densities = Mapping[str, float]


@dataclass(frozen=True)
class Scope:
    """Pools of competition and their sizes.

    `scope(scores, shapes, density)` returns one boolean tensor per score tensor. `alive`, where given, holds the units
    that may still be chosen: pruned ones stay pruned.

    Attributes:
        name: as printed.
        choose: (scores, shapes, density, lowest) → keep; a value (a function or a frozen dataclass), so that
            equal scopes are equal.
        rank: applied to each layer's scores before they compete (LAMP's normalisation, say).
        lowest: keep the lowest scores instead of the highest (the *invert* sanity check).
        counted: the density says how many stay; False where the scope alone does, and the density may be None.
    """

    name: str
    choose: Callable[[Scores, Shapes, float, bool], Keep] = field(repr=False)
    rank: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    lowest: bool = False
    counted: bool = True

    def __call__(
        self, scores: Scores, shapes: Shapes, density: float | None, *, alive: Mapping[str, Tensor] | None = None
    ) -> Keep:
        if density is None and self.counted:
            raise SecateurError(
                f"Scope {self.name} needs a density, got None. Give the schedule one, or choose a scope that decides "
                "by itself how many stay (`threshold`, `given`)."
            )
        if self.rank is not None:
            scores = {name: self.rank(tensor) for name, tensor in scores.items()}
        if alive is not None:
            scores = {name: _bar(tensor, alive[name], self.lowest) for name, tensor in scores.items()}
        keep = self.choose(scores, shapes, 1.0 if density is None else density, self.lowest)
        if alive is not None:
            keep = {name: bits & alive[name] for name, bits in keep.items()}
        return keep


def _bar(scores: Tensor, alive: Tensor, lowest: bool) -> Tensor:
    """Give the units that are no longer alive the worst finite score, so that they are chosen last."""
    limits = torch.finfo(scores.dtype)
    return torch.where(alive, scores, limits.max if lowest else limits.min)


def _pick(scores: Scores, keep: int, lowest: bool) -> Keep:
    """The `keep` highest scores; or, with `lowest`, the complement of the others: disjoint from the highest."""
    if not lowest:
        return topk_mask(scores, keep)
    size = sum(tensor.numel() for tensor in scores.values())
    return {name: ~bits for name, bits in topk_mask(scores, size - keep).items()}


# --- one pool -----------------------------------------------------------------------------------------------------

Cost = Mapping[str, float] | Callable[[str, torch.Size], float]


def everywhere(*, cost: Cost | None = None) -> Scope:
    """All units of all layers compete in one ranking: κ = ⌊ρN + ½⌋ survive (`density` ρ, N units).

    With `cost`, the price of one unit of each layer (a mapping, or a function of name and weight shape), the longest
    prefix of the ranking is kept whose total cost stays within ρ × the cost of all units.
    """
    if cost is None:
        return Scope("everywhere", _choose_everywhere)
    fixed = cost if callable(cost) else tuple(sorted(cost.items()))
    return Scope("everywhere(cost=…)", _Affordable(fixed))


@dataclass(frozen=True)
class _Affordable:
    """The longest prefix of the ranking that a budget can pay for."""

    cost: Callable[[str, torch.Size], float] | tuple[tuple[str, float], ...]

    def __call__(self, scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
        each = {name: self._price(name, shapes[name]) for name in scores}
        budget = density * sum(each[name] * tensor.numel() for name, tensor in scores.items())
        ranked = {name: -tensor for name, tensor in scores.items()} if lowest else scores
        return best_prefix(ranked, each, budget)

    def _price(self, name: str, shape: torch.Size) -> float:
        if callable(self.cost):
            return float(self.cost(name, shape))
        prices = dict(self.cost)
        if name not in prices:
            raise SecateurError(
                f"`cost` has no price for {name!r}.{nearest(name, prices)} Priced: {', '.join(prices)}."
            )
        return prices[name]


def _choose_everywhere(scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
    size = sum(tensor.numel() for tensor in scores.values())
    return _pick(scores, kept_count(density, size), lowest)


def ranked_with(transform: Callable[[Tensor], Tensor]) -> Scope:
    """One ranking over all layers, after `transform` has rescaled each layer's scores (see `lamp`)."""
    return Scope(f"ranked_with({getattr(transform, '__name__', transform)})", _choose_everywhere, rank=transform)


def threshold(value: float) -> Scope:
    """Keep every unit whose score is at least `value`, however many that are; the density is ignored."""

    return Scope(f"threshold({value:g})", _Above(value), counted=False)


@dataclass(frozen=True)
class _Above:
    value: float

    def __call__(self, scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
        keep = {name: at_least(tensor, self.value, name=name) for name, tensor in scores.items()}
        return {name: ~bits for name, bits in keep.items()} if lowest else keep


# --- one pool per layer -------------------------------------------------------------------------------------------


def layerwise() -> Scope:
    """Each layer keeps the same fraction: κ_l = ⌊ρN_l + ½⌋ for every layer l."""
    return Scope("layerwise", _choose_layerwise)


def _choose_layerwise(scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
    counts = {name: kept_count(density, tensor.numel()) for name, tensor in scores.items()}
    return _choose_counts(scores, counts, lowest)


def _choose_counts(scores: Scores, counts: Mapping[str, int], lowest: bool) -> Keep:
    return {name: _pick({name: tensor}, counts[name], lowest)[name] for name, tensor in scores.items()}


def erk(*, power: float = 1.0) -> Scope:
    """Erdős–Rényi-kernel quotas: d_l ∝ ((n_in + n_out + k_h + k_w)/(n_in·n_out·k_h·k_w))^`power`, total exactly κ.

    Layers whose quota exceeds 1 are kept dense and the rest is solved again. Source: Evci et al., arXiv 1911.11134, §3.
    """

    return Scope("erk" if power == 1.0 else f"erk(power={power:g})", _Quota(_Erk(power)))


@dataclass(frozen=True)
class _Erk:
    power: float

    def __call__(self, shapes: Shapes, density: float) -> dict[str, float]:
        return erk_densities(shapes, density, power=self.power)


def igq() -> Scope:
    """Ideal-gas quotas: d_l = 1/(F·N_l + 1) with F ≥ 0 such that Σ d_l N_l = κ, total exactly κ.

    Source: Vysogorets & Kempe, arXiv 2107.02306, §4.
    """
    return Scope("igq", _Quota(igq_densities))


def given(densities: Densities) -> Scope:
    """The densities you name, layer by layer: `given({"fc1.weight": 0.1, "fc2.weight": 1.0})`.

    Layers that are not named are kept whole; the schedule's density is ignored. Names are checked.
    """
    fixed = tuple(sorted(densities.items()))
    for name, density in fixed:
        if density != 0:
            check_density(density, name=f"densities[{name!r}]")

    return Scope(f"given({dict(fixed)})", _Given(fixed), counted=False)


@dataclass(frozen=True)
class _Given:
    densities: tuple[tuple[str, float], ...]

    def __call__(self, scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
        wanted = dict(self.densities)
        for name in wanted:
            if name not in scores:
                raise SecateurError(
                    f"`given`: {name!r} is not a prunable tensor of this model.{nearest(name, scores)} "
                    f"Prunable here: {', '.join(scores)}."
                )
        size = {name: tensor.numel() for name, tensor in scores.items()}
        counts = {
            name: kept_count(wanted.get(name, 1.0), n) if wanted.get(name, 1.0) else 0 for name, n in size.items()
        }
        return _choose_counts(scores, counts, lowest)


@dataclass(frozen=True)
class _Quota:
    """Per-layer pools whose sizes follow a quota and add up to exactly κ."""

    densities: Callable[[Shapes, float], dict[str, float]]

    def __call__(self, scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
        size = {layer: tensor.numel() for layer, tensor in scores.items()}
        keep = kept_count(density, sum(size.values()))
        quota = self.densities({layer: shapes[layer] for layer in scores}, density)
        counts = largest_remainder({layer: quota[layer] * size[layer] for layer in size}, size, keep)
        return _choose_counts(scores, counts, lowest)


# --- smaller pools ------------------------------------------------------------------------------------------------


def per_row() -> Scope:
    """Each output unit keeps the same number of its inputs: ⌊ρ·(entries of the row) + ½⌋, at least as dense as asked.

    The constant-fan-in sparsity of Wanda (arXiv 2306.11695, §3) and SRigL. Rows are the first dimension of the weight.
    """
    return Scope("per_row", _choose_per_row)


def _choose_per_row(scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
    keep = {}
    for name, tensor in scores.items():
        rows = tensor.reshape(tensor.shape[0], -1)
        keep[name] = _pick_rows(rows, kept_count(density, rows.shape[1]), lowest, name).reshape(tensor.shape)
    return keep


def n_of_m(n: int, m: int) -> Scope:
    """Keep the best `n` of every `m` consecutive inputs (2:4 is what NVIDIA's sparse tensor cores run).

    Pools lie along the input dimension (dimension 1), as the hardware wants them. The density is n/m by definition:
    a schedule asking for another one is refused. Source: Mishra et al., arXiv 2104.08378, §3.
    """
    if not 0 < n <= m:
        raise SecateurError(f"n_of_m needs 0 < n <= m, got n={n}, m={m}.")

    return Scope(f"n_of_m({n}, {m})", _NOfM(n, m))


@dataclass(frozen=True)
class _NOfM:
    n: int
    m: int

    def __call__(self, scores: Scores, shapes: Shapes, density: float, lowest: bool) -> Keep:
        n, m = self.n, self.m
        if not math.isclose(density, n / m):
            raise SecateurError(
                f"n_of_m({n}, {m}) keeps exactly {n / m:g}, got density={density:g}. Ask for {n / m:g}."
            )
        return {name: _choose_groups(tensor, n, m, lowest, name) for name, tensor in scores.items()}


def _choose_groups(scores: Tensor, n: int, m: int, lowest: bool, name: str) -> Tensor:
    if scores.dim() < 2 or scores.shape[1] % m:
        raise SecateurError(
            f"n_of_m({n}, {m}) needs a number of inputs divisible by {m}, got {name!r} of shape {tuple(scores.shape)}. "
            "Leave the tensor out with `only=`."
        )
    inputs_last = scores.movedim(1, -1)
    bits = _pick_rows(inputs_last.reshape(-1, m), n, lowest, name).reshape(inputs_last.shape)
    return bits.movedim(-1, 1).contiguous()


def _pick_rows(rows: Tensor, keep: int, lowest: bool, name: str) -> Tensor:
    if not lowest:
        return topk_rows(rows, keep, name=name)
    return ~topk_rows(rows, rows.shape[1] - keep, name=name)
