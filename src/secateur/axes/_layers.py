"""Scopes that tell layers apart: quotas from shapes (ERK, ideal gas, uniform+), layers left alone, given densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from secateur._base.errors import SecateurError, UnfitModelError, nearest
from secateur.axes._quota import (
    erdos_renyi_densities,
    erk_densities,
    igq_densities,
    largest_remainder,
    slower_last_densities,
    smart_ratio_densities,
    uniform_plus_densities,
)
from secateur.axes._scope import Keep, Scope, Scores, Shapes, best_of_each, density_of, kappa
from secateur.selection import check_density, kept_count, sizes_of

# --- quotas -------------------------------------------------------------------------------------------------------


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


def uniform_plus(*, last: float = 0.2) -> Scope:
    """The same density in every layer, but the first stays whole and the last keeps `last` at least; total exactly κ.

    First and last are those of the prunable tensors, in the model's order. A density that these two alone exceed is
    refused before anything is pruned. Source: Gale, Elsen & Hooker, arXiv 1902.09574, §5, where the others carry what
    the two are spared; the name is later literature's.
    """
    check_density(last, name="last")
    choose = _Quota(_UniformPlus(last))
    return Scope("uniform_plus" if last == 0.2 else f"uniform_plus(last={last:g})", choose, check=choose.densities)


@dataclass(frozen=True)
class _UniformPlus:
    last: float

    def __call__(self, shapes: Shapes, density: float) -> dict[str, float]:
        return uniform_plus_densities(shapes, density, last=self.last)


def smart_ratio(*, last: float = 0.3) -> Scope:
    """Quotas that fall with depth, d_l ∝ (L − l + 1)² + (L − l + 1), the last linear layer at `last`; total exactly κ.

    A density that the last layer alone exceeds is refused before anything is pruned. Source: Su et al., arXiv
    2009.11094, §4.
    """
    check_density(last, name="last")
    choose = _Quota(_SmartRatio(last))
    return Scope("smart_ratio" if last == 0.3 else f"smart_ratio(last={last:g})", choose, check=choose.densities)


@dataclass(frozen=True)
class _SmartRatio:
    last: float

    def __call__(self, shapes: Shapes, density: float) -> dict[str, float]:
        return smart_ratio_densities(shapes, density, last=self.last)


def slower_last(*, rounds: int) -> Scope:
    """The same density in every layer, but the last is cut at half the rate of each of so many rounds; total exactly κ.

    With f the share that a round leaves of the others, they have f^R and the last has ((1 + f)/2)^R, R = `rounds`, so
    that Σ d_l N_l = κ: the layer-wise pruning of small networks in the lottery ticket paper (arXiv 1803.03635, §2).
    """
    if rounds < 1:
        raise SecateurError(f"`rounds` must be at least 1, got {rounds}.")
    return Scope(f"slower_last(rounds={rounds})", _Quota(_SlowerLast(rounds)))


@dataclass(frozen=True)
class _SlowerLast:
    rounds: int

    def __call__(self, shapes: Shapes, density: float) -> dict[str, float]:
        return slower_last_densities(shapes, density, rounds=self.rounds)


def erdos_renyi(epsilon: float = 20.0) -> Scope:
    """Erdős–Rényi quotas of a given ε: layer l keeps ⌊ε(n_in + n_out)·N_l/(n_in·n_out) + ½⌋ of its N_l weights.

    How many stay altogether, comes out: the density is ignored, and may be None. Kernel sizes do not count, tensors of
    one dimension are kept whole. Source: SET, arXiv 1707.04780, eq. 1; its experiments take ε = 20.
    """
    if not epsilon > 0:
        raise SecateurError(f"`epsilon` must be positive, got {epsilon}: ε(n_in + n_out) weights of a layer stay.")
    return Scope(f"erdos_renyi({epsilon:g})", _ErdosRenyi(epsilon), counted=False)


@dataclass(frozen=True)
class _ErdosRenyi:
    epsilon: float

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        quota = erdos_renyi_densities({name: shapes[name] for name in scores}, self.epsilon)
        return best_of_each(scores, {n: math.floor(quota[n] * t.numel() + 0.5) for n, t in scores.items()})


@dataclass(frozen=True)
class _Quota:
    """Per-layer pools whose sizes follow a quota and add up to exactly κ."""

    densities: Callable[[Shapes, float], dict[str, float]]

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        # In the order of `shapes`, which is the model's: of equal remainders the first layer's is rounded up.
        sizes = sizes_of(scores)
        size = {layer: sizes[layer] for layer in shapes if layer in sizes}
        keep = kappa(density, sum(size.values()))
        quota = self.densities({layer: shapes[layer] for layer in size}, density)
        return best_of_each(
            scores, largest_remainder({layer: quota[layer] * size[layer] for layer in size}, size, keep)
        )


# --- layers that stay whole -----------------------------------------------------------------------------------


def keeping(scope: Scope, *layers: str | int) -> Scope:
    """Keep some layers whole, and let the others share what is left by `scope`: the total stays what it was.

    Args:
        scope: who competes among the others.
        layers: names or globs (`"head*"`), or places in the model's order as of a list: 0 is the first prunable tensor,
            -1 the last.

    >>> scores = {"a": torch.tensor([9.0, 8.0, 7.0, 6.0]), "b": torch.tensor([1.0, 2.0])}
    >>> from secateur import scope
    >>> keep = scope.keeping(scope.everywhere(), -1)(scores, {"a": torch.Size([4]), "b": torch.Size([2])}, 0.5)
    >>> keep["a"].tolist(), keep["b"].tolist()
    ([True, False, False, False], [True, True])
    """
    if not layers:
        raise SecateurError("`keeping` needs a layer: a name, a glob, or a place (0 is the first, -1 the last).")
    if scope.budgeted:
        raise SecateurError(
            f"What is spared counts units, and {scope.name} spends a budget of costs: the two do not go together. Take "
            "`everywhere()` without `cost`, or leave the layers out with `only=`."
        )
    choose = _Keeping(scope, layers)
    name = f"keeping({scope.name}, {', '.join(map(repr, layers))})"
    return replace(scope, name=name, choose=choose, check=choose.check)


@dataclass(frozen=True)
class _Keeping:
    scope: Scope
    layers: tuple[str | int, ...]

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        size = {name: scores[name].numel() for name in shapes if name in scores}
        whole = self._whole(size)
        rest = {name: tensor for name, tensor in scores.items() if name not in whole}
        share = self._share(size, whole, density)
        keep = best_of_each(scores, {name: size[name] if name in whole else 0 for name in scores})
        if rest and share > 0:
            keep.update(self.scope.choose(rest, {name: shapes[name] for name in rest}, share))
        return keep

    def check(self, shapes: Shapes, density: float) -> None:
        """Raise where the layers are unknown, or are more than the density allows."""
        size = {name: shape.numel() for name, shape in shapes.items()}
        self._share(size, self._whole(size), density)

    def _whole(self, size: dict[str, int]) -> set[str]:
        names, found = list(size), set()
        for layer in self.layers:
            if isinstance(layer, int):
                hits = names[layer:][:1] if -len(names) <= layer < len(names) else []
            else:
                hits = [name for name in names if name == layer or fnmatchcase(name, layer)]
            if not hits:
                near = nearest(layer, names) if isinstance(layer, str) else ""
                raise SecateurError(
                    f"`keeping`: {layer!r} is not a prunable tensor of this model.{near} "
                    f"Prunable here: {', '.join(names)}."
                )
            found.update(hits)
        return found

    def _share(self, size: dict[str, int], whole: set[str], density: float) -> float:
        """The density that is left for the others; that of the whole where the scope does not count."""
        spared, total = sum(size[name] for name in whole), sum(size.values())
        if not self.scope.counted or spared == total:
            return density
        left = kept_count(density, total) - spared
        if left < 0:
            raise SecateurError(
                f"`keeping` keeps {', '.join(sorted(whole))} whole, which is {spared} units, more than "
                f"`density`={density:g} keeps of {total}. Ask for at least {density_of(spared, total):.3g}."
            )
        return left / (total - spared)


def convolutions(scope: Scope) -> Scope:
    """Let the kernels of convolutions compete by `scope`, and keep all other tensors whole.

    The density is that of the kernels. A network without a convolution is refused before anything is pruned.
    """
    choose = _Convolutions(scope)
    return replace(scope, name=f"convolutions({scope.name})", choose=choose, check=choose.check, spares=True)


@dataclass(frozen=True)
class _Convolutions:
    scope: Scope

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        self.check(shapes, density)
        kernels = {name: tensor for name, tensor in scores.items() if _is_kernel(shapes[name])}
        keep = best_of_each(scores, {name: tensor.numel() for name, tensor in scores.items()})
        keep.update(self.scope.choose(kernels, {name: shapes[name] for name in kernels}, density))
        return keep

    def check(self, shapes: Shapes, density: float) -> None:
        """Raise where there is no convolution."""
        if not any(map(_is_kernel, shapes.values())):
            raise UnfitModelError(
                f"This scope is for convolutions, and the network has none among {', '.join(shapes)}. Give the method "
                "another `scope`: `layerwise()` is for every layer, and `keeping` leaves some out."
            )


def _is_kernel(shape: torch.Size) -> bool:
    return len(shape) > 2


#: Numbers by layer: names or globs. An exact name wins over a glob, an earlier glob over a later one.
ByName = Mapping[str, float]


def given(densities: ByName) -> Scope:
    """The densities you name, layer by layer: `given({"fc1.weight": 0.1, "conv*": 1.0})`, names or globs.

    Layers that are not named are kept whole; the schedule's density is ignored. Names are checked. An exact name wins
    over a glob, an earlier glob over a later one.
    """
    for name, density in densities.items():
        if density != 0:
            check_density(density, name=f"densities[{name!r}]")
    return Scope(f"given({dict(densities)})", _Given(tuple(densities.items())), counted=False)


@dataclass(frozen=True)
class _Given:
    densities: tuple[tuple[str, float], ...]

    def __call__(self, scores: Scores, shapes: Shapes, density: float) -> Keep:
        wanted = dict.fromkeys(scores, 1.0) | by_name(dict(self.densities), scores, "given")
        counts = {name: kept_count(share, scores[name].numel()) if share else 0 for name, share in wanted.items()}
        return best_of_each(scores, counts)


def by_name(given: ByName, names: Collection[str], caller: str) -> dict[str, float]:
    """The number of each layer that a name or glob of `given` means; what fits no layer is refused by its name.

    >>> by_name({"conv*": 0.7, "conv2": 1.2}, ["conv1", "conv2", "fc"], "quality")
    {'conv1': 0.7, 'conv2': 1.2}
    """
    found: dict[str, float] = {}
    for pattern, value in sorted(given.items(), key=lambda entry: entry[0] not in names):
        hits = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            raise SecateurError(
                f"`{caller}`: {pattern!r} is not a prunable tensor of this model.{nearest(pattern, names)} "
                f"Prunable here: {', '.join(names)}."
            )
        found = dict.fromkeys(hits, value) | found
    return found
