"""Numbers by layer, under names or globs, and the scope that keeps as much of each layer as it is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from secateur._base.errors import SecateurError, nearest
from secateur.axes._scope import Keep, Scope, Scores, Shapes, best_of_each
from secateur.selection import check_density, kept_count

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
        return best_of_each(
            scores,
            {name: kept_count(wanted[name], tensor.numel()) if wanted[name] else 0 for name, tensor in scores.items()},
        )


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
