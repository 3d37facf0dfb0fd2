"""Share a budget of weights out over parts, by what each density costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from secateur._base.errors import SecateurError
from secateur.selection import check_density

#: (density, error) of one part when it alone is pruned.
Curve = Sequence[tuple[float, float]]

_STEPS = 16


def shared_out(sizes: Mapping[str, int], curves: Mapping[str, Curve], density: float) -> dict[str, float]:
    """The density of each part at which Σ errors is least, with Σ density × size = `density` × Σ size.

    Each curve begins at (1, 0) and is made to rise as the density falls; between two points errors grow by a constant
    factor (from 0 by a constant amount), in sixteen straight stretches, and the convex line below all of that counts.
    The cheapest stretches of all curves, by error per weight, are then cut first, and of the last one a part: for such
    curves that is the optimum.

    Args:
        sizes: how many weights each part has.
        curves: what was measured.
        density: ρ of all together.

    Raises:
        SecateurError: the lowest densities measured leave more than `density`.

    >>> shared_out({"a": 10, "b": 10}, {"a": [(0.5, 1.0)], "b": [(0.5, 3.0)]}, 0.75)
    {'a': 0.5, 'b': 1.0}
    """
    check_density(density)
    stretches: list[tuple[float, str, float]] = []  # error per weight, part, weights
    for name, curve in curves.items():
        line = _convex(curve)
        for (high, before), (low, after) in pairwise(line):
            weights = (high - low) * sizes[name]
            stretches.append(((after - before) / weights, name, weights))
    total = sum(sizes.values())
    left = (1 - density) * total
    gone = dict.fromkeys(sizes, 0.0)
    for _, name, weights in sorted(stretches, key=lambda stretch: stretch[0]):
        taken = min(left, weights)
        gone[name] += taken
        left -= taken
    if left > 1e-9 * total:
        least = 1 - sum(weights for _, _, weights in stretches) / total
        raise SecateurError(
            f"`levels` end at {least:.3g} of all weights, above `density`={density:g}: measure lower ones as well."
        )
    return {name: 1 - gone[name] / sizes[name] for name in sizes}


def _convex(curve: Curve) -> list[tuple[float, float]]:
    """The lower convex hull of a curve from (1, 0) down, its errors never falling."""
    points = [(1.0, 0.0)]
    for density, error in sorted(curve, reverse=True):
        if density < 1:
            points += _between(points[-1], (density, max(points[-1][1], error)))
    hull: list[tuple[float, float]] = []
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _between(one: tuple[float, float], other: tuple[float, float]) -> list[tuple[float, float]]:
    """Points from one to the other, without the first: pruning errors grow in proportion to themselves."""
    (high, before), (low, after) = one, other
    if before <= 0:
        return [other]
    return [(high + (low - high) * k / _STEPS, before * (after / before) ** (k / _STEPS)) for k in range(1, _STEPS + 1)]


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Error per density given up."""
    return (other[1] - one[1]) / (one[0] - other[0])
