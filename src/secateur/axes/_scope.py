"""What a scope is, and the two ways to make another of one: turned upside down, and with a floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from secateur._base.errors import SecateurError, UnfitModelError
from secateur._base.zeros import count_true
from secateur.selection import Among, Chosen, best_of_one, few_patterns, kept_count

Scores = Mapping[str, Tensor]
Shapes = Mapping[str, torch.Size]
Keep = dict[str, Tensor]


@dataclass(frozen=True)
class Scope:
    """Pools of competition and their sizes.

    `scope(scores, shapes, density)` returns one boolean tensor per score tensor. `alive`, where given, holds the units
    that may still be chosen: pruned ones stay pruned. Tensors lie as `[out, in, ...]`.

    Attributes:
        name: as printed.
        choose: (scores, shapes, density) → keep; a value (a function or a frozen dataclass), so that equal scopes are
            equal. Units that are no longer alive arrive with the lowest finite score.
        rank: applied to each layer's scores before they compete (LAMP's normalisation, say).
        counted: the density says how many stay; False where the scope alone does, and the density may be None.
        budgeted: the density is of costs, not of units.
        check: (shapes, density) → None, raising where this scope cannot serve a network; asked before anything is
            pruned, for every density of a schedule.
        spares: it may keep tensors whole outside of the count; the density is then one of the units of the others.
    """

    name: str
    choose: Callable[[Scores, Shapes, float], Keep] = field(repr=False)
    rank: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    counted: bool = True
    budgeted: bool = False
    check: Callable[[Shapes, float], object] | None = field(default=None, repr=False, compare=False)
    spares: bool = False

    def __call__(
        self, scores: Scores, shapes: Shapes, density: float | None, *, alive: Mapping[str, Tensor] | None = None
    ) -> Keep:
        if density is None and self.counted:
            raise SecateurError(
                f"Scope {self.name} needs a density, got None. Give the schedule one, or choose a scope that decides "
                "by itself how many stay (`threshold`, `above`, `given`)."
            )
        if self.rank is not None:
            scores = {name: self.rank(tensor) for name, tensor in scores.items()}
        if alive is not None:
            scores = Among(scores, alive)
        keep = self.choose(scores, shapes, 1.0 if density is None else density)
        if alive is not None:
            keep = {name: bits & alive[name] for name, bits in keep.items()}
        return keep


def _worst(scores: Tensor) -> float:
    return torch.finfo(scores.dtype).min


def living(scores: Tensor) -> Tensor:
    """Which units may be chosen (`Scope.__call__` bars the others by their score)."""
    if not scores.dtype.is_floating_point:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores != _worst(scores)


def best_of_each(scores: Scores, counts: Mapping[str, int]) -> Keep:
    """The `counts` highest scores of each layer."""
    return Chosen.joined(best_of_one(name, scores, counts[name]) for name in scores)


def kappa(density: float, size: int) -> int:
    """The κ of `size` units that stay; a density that would keep none is refused."""
    keep = kept_count(density, size)
    if keep == 0 < size:
        raise SecateurError(
            f"`density`={density:g} keeps none of {size} units: ⌊{density:g}·{size} + ½⌋ = 0. The smallest density "
            f"that keeps one is {density_of(1, size):.3g}."
        )
    return keep


def density_of(keep: int, size: int) -> float:
    """The smallest density of three digits that keeps `keep` of `size` units.

    >>> density_of(1, 200)
    0.0025
    """
    exact = (keep - 0.5) / size
    digits = 2 - math.floor(math.log10(exact))
    below = math.floor(exact * 10**digits)
    for step in (0, 1):
        rounded = float(f"{below + step}e{-digits}")
        if rounded > 0 and kept_count(min(1.0, rounded), size) >= keep:
            break
    return min(1.0, rounded)


# --- upside down --------------------------------------------------------------------------------------------------


def inverted(scope: Scope) -> Scope:
    """Keep the lowest scores instead of the highest, in the same pools and as many: the *invert* sanity check.

    Ties go to the higher index, so that up to a density of ½ nothing is kept that the scope itself keeps. Where the
    scope alone decides how many stay, as many stay in each layer, the lowest. Inverting twice gives the scope back.
    """
    if isinstance(scope.choose, _Inverted):
        return scope.choose.scope
    return replace(scope, name=f"inverted({scope.name})", choose=_Inverted(scope))


@dataclass(frozen=True)
class _Inverted:
    scope: Scope

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        # Negative scores in reverse order: what was last among equals is first.
        turned = {name: _reverse(_negative(tensor)) for name, tensor in reversed(list(scores.items()))}
        if self.scope.counted:
            keep = self.scope.choose(turned, shapes, density)
        else:
            own = self.scope.choose(scores, shapes, density)
            keep = best_of_each(turned, {name: count_true(bits) for name, bits in own.items()})
        return {name: _reverse(keep[name]) for name in scores}


def _negative(scores: Tensor) -> Tensor:
    if not scores.dtype.is_floating_point:
        return -scores.double()
    return torch.where(living(scores), -scores, scores)


def _reverse(tensor: Tensor) -> Tensor:
    return tensor.flip(tuple(range(tensor.dim())))


# --- with a floor -------------------------------------------------------------------------------------------------


def floored(scope: Scope, *, at_least: int) -> Scope:
    """Let no layer fall below `at_least` units (or all that it has): a layer without any passes no signal on.

    Layers that would fall below get their floor, and the others share what is left by the same scope: the total stays
    what it was, exactly for `everywhere`, `ranked_with`, `erk` and `igq`, within rounding for scopes that round layer
    by layer. Where the scope alone decides how many stay, the poor layers just get more. Floors count units, not
    costs: they do not go with a budget (`everywhere(cost=…)`).

    >>> scores = {"a": torch.tensor([9.0, 8.0, 7.0]), "b": torch.tensor([1.0, 2.0])}
    >>> from secateur import scope
    >>> keep = scope.floored(scope.everywhere(), at_least=1)(scores, {}, 0.6)
    >>> keep["a"].tolist(), keep["b"].tolist()
    ([True, True, False], [False, True])
    """
    if at_least < 1:
        raise SecateurError(f"`at_least` must be at least 1 unit per layer, got {at_least}.")
    if scope.budgeted:
        raise SecateurError(
            f"A floor counts units, and {scope.name} spends a budget of costs: the two do not go together. "
            "Take `everywhere()` without `cost`, or a scope with a quota for each layer (`erk`, `layerwise`)."
        )
    return Scope(
        f"floored({scope.name}, at_least={at_least})",
        _Floored(scope, at_least),
        rank=scope.rank,
        counted=scope.counted,
        check=scope.check,
        spares=scope.spares,
    )


@dataclass(frozen=True)
class _Floored:
    scope: Scope
    at_least: int

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        floors = {name: min(self.at_least, count_true(living(tensor))) for name, tensor in scores.items()}
        rich, keep = dict(scores), self.scope.choose(scores, shapes, density)
        left = _count(keep)
        if self.scope.counted and left < sum(floors.values()):
            self._refuse(sum(floors.values()), sum(tensor.numel() for tensor in scores.values()), density, left)
        while poor := [name for name in rich if count_true(keep[name]) < floors[name]]:
            keep |= best_of_each({name: rich.pop(name) for name in poor}, floors)
            left -= sum(floors[name] for name in poor)
            if left == 0:  # nothing alive in the others
                keep |= best_of_each(rich, dict.fromkeys(rich, 0))
            elif self.scope.counted and rich:
                share = left / sum(tensor.numel() for tensor in rich.values())
                keep |= self.scope.choose(rich, {name: shapes[name] for name in rich if name in shapes}, share)
        return {name: keep[name] for name in scores}

    def _refuse(self, needed: int, size: int, density: float, kept: int) -> None:
        raise SecateurError(
            f"`at_least`={self.at_least} units in each layer are {needed} together, but {self.scope.name} at "
            f"`density`={density:g} keeps {kept} of {size}. Ask for a density of at least "
            f"{density_of(needed, size):.3g}, or for a lower floor."
        )


def _count(keep: Keep) -> int:
    return sum(count_true(bits) for bits in keep.values())


# --- with the exempt left out ---------------------------------------------------------------------------------------


def sparing(scope: Scope) -> Scope:
    """Leave layers whose scores are all the highest finite number out of the competition: they stay whole, uncounted.

    Evidence that is about some layers only (`measures.norm_scale`) says so by that number; the density is then one of
    the units of the others.

    >>> scores = {"a": torch.tensor([3.0, 1.0]), "head": torch.full((2,), torch.finfo(torch.float32).max)}
    >>> from secateur import scope
    >>> keep = scope.sparing(scope.everywhere())(scores, {}, 0.5)
    >>> keep["a"].tolist(), keep["head"].tolist()
    ([True, False], [True, True])
    """
    return replace(scope, name=f"sparing({scope.name})", choose=_Sparing(scope.choose), spares=True)


@dataclass(frozen=True)
class _Sparing:
    choose: Callable[[Scores, Shapes, float], Keep]

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        whole = {name for name, tensor in scores.items() if _exempt(tensor)}
        competing = {name: tensor for name, tensor in scores.items() if name not in whole}
        keep = self.choose(competing, {name: shape for name, shape in shapes.items() if name in competing}, density)
        return {name: living(scores[name]) if name in whole else keep[name] for name in scores}


def _exempt(scores: Tensor) -> bool:
    alive = scores[living(scores)]
    return alive.dtype.is_floating_point and bool((alive == torch.finfo(alive.dtype).max).all())


# --- few patterns for the kernels of a layer ------------------------------------------------------------------------


def patterns(count: int) -> Scope:
    """Every kernel of a convolution keeps as many of its k positions, n = max(1, ⌊ρk + ½⌋), by few patterns a layer.

    At most `count` patterns of n positions are used in a layer: those that are best (the n highest scores) for most of
    its kernels; each kernel gets the one with its largest sum of scores. Layers without kernels (linear ones, 1×1) stay
    whole and do not count. With as many patterns as kernels, each keeps its best n.

    In rounds, kernels that shared a pattern find a smaller one inside it. Where masks cut otherwise before, nothing of
    that returns: a kernel may then have fewer than n left.
    """
    if count < 1:
        raise SecateurError(f"`count` must be at least 1 pattern per layer, got {count}.")
    return Scope(f"patterns({count})", _Patterns(count), check=_has_kernels, spares=True)


def _has_kernels(shapes: Shapes, density: float) -> None:
    if not any(math.prod(shape[2:]) > 1 for shape in shapes.values()):
        raise UnfitModelError(
            f"patterns are of the positions of a convolution's kernel, and none of the prunable tensors has more than "
            f"one: {', '.join(shapes)}. Prune linear and 1×1 layers by single weights (scope.per_row, scope.n_of_m)."
        )


@dataclass(frozen=True)
class _Patterns:
    count: int

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        return {name: self._layer(name, tensor, density) for name, tensor in scores.items()}

    def _layer(self, name: str, scores: Tensor, density: float) -> Tensor:
        size = math.prod(scores.shape[2:]) if scores.dim() > 2 else 1
        if size == 1:
            return living(scores)
        kernels, alive = scores.reshape(-1, size), living(scores).reshape(-1, size)
        keep = max(1, kept_count(density, size))
        none_dead = bool(alive.all())
        bits = few_patterns(kernels, keep, self.count, alive=None if none_dead else alive, name=name)
        return bits.reshape(scores.shape)
