"""Means with intervals, and differences of runs that share their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, inf, pi, sqrt
from statistics import mean, stdev


@dataclass(frozen=True)
class Interval:
    """A mean, and half the width of its 95 % confidence interval; None for a single value."""

    mean: float
    half: float | None


@dataclass(frozen=True)
class Paired:
    """The mean difference of paired values, and how likely one so large is by chance; None below two pairs."""

    difference: float
    p: float | None

    @property
    def significant(self) -> bool:
        """Whether chance is a bad explanation: p < 0.05."""
        return self.p is not None and self.p < 0.05


def student(t: float, freedom: int) -> float:
    """Return P(|T| > t) for Student's t with a whole number of degrees of freedom, by its closed form.

    With θ = atan(t/√ν): for odd ν, A = 2/π (θ + sin θ (cos θ + 2/3 cos³ θ + …)); for even ν, A = sin θ (1 + 1/2 cos² θ
    + 1·3/(2·4) cos⁴ θ + …); P = 1 − A. Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.

    >>> round(student(12.706, 1), 4), round(student(2.776, 4), 4)
    (0.05, 0.05)
    """
    if t == inf:
        return 0.0
    angle = atan(abs(t) / sqrt(freedom))
    sine, cosine = abs(t) / sqrt(freedom + t * t), cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for index in range(freedom // 2):
        total += term
        step = (2 * index + 2) / (2 * index + 3) if odd else (2 * index + 1) / (2 * index + 2)
        term *= step * cosine * cosine
    inside = 2 / pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1.0 - inside)


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of some values with its 95 % confidence interval: s/√n times Student's 0.975 quantile."""
    if len(values) < 2:
        return Interval(mean(values), None)
    return Interval(mean(values), _quantile(len(values) - 1) * stdev(values) / sqrt(len(values)))


def paired(ours: dict[int, float], theirs: dict[int, float]) -> Paired | None:
    """Compare values seed by seed by the paired t-test; None where no seed is common to both.

    Args:
        ours, theirs: by seed. The same seed means the same first weights, data and batches.
    """
    differences = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
    if not differences:
        return None
    average = mean(differences)
    if len(differences) < 2:
        return Paired(average, None)
    error = stdev(differences) / sqrt(len(differences))
    t = abs(average) / error if error else (inf if average else 0.0)
    return Paired(average, student(t, len(differences) - 1))


def _quantile(freedom: int) -> float:
    """The t that is exceeded, up or down, in 5 of 100 cases: by halving an interval that holds it."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) > 0.05 else (low, middle)
    return high
