"""How far apart two trained networks are, and what a cut costs at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.masks import Masks

__all__ = ["error_barrier", "instability", "interpolated", "mask_distance"]


def interpolated(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 − α)·first + α·second of two `state_dict`s, α = `share`; whole numbers are those of `first`.

    Raises:
        SecateurError: their names or shapes differ.
    """
    odd = sorted(first.keys() ^ second.keys()) or [name for name in first if first[name].shape != second[name].shape]
    if odd:
        raise SecateurError(f"Two networks of one kind are needed: they differ at {odd[0]!r} and {len(odd) - 1} more.")
    return {
        name: torch.lerp(one, second[name].to(one.device), share) if one.is_floating_point() else one.clone()
        for name, one in first.items()
    }


def error_barrier(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    error: Callable[[nn.Module], float],
    *,
    points: int = 30,
) -> float:
    """The error barrier between two networks: max_α err(αθ_b + (1 − α)θ_a) − ½(err(θ_a) + err(θ_b)), α on a grid.

    Below 2 points of error two networks are called linearly connected, and training from where they parted stable.

    Args:
        model: a network of their kind; it is copied, and left as it is.
        first: θ_a, a `state_dict`.
        second: θ_b.
        error: network → its error, for instance on the test set.
        points: values of α, 0 and 1 among them; the paper takes 30.

    Raises:
        SecateurError: fewer than 2 points, or networks of two kinds.

    Source: Frankle, Dziugaite, Roy & Carbin, "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020,
    arXiv 1912.05671, §2. Statistics of batch norms are interpolated as they are, not measured again.
    """
    if points < 2:
        raise SecateurError(f"`points` must be at least 2 (both ends), got {points}.")
    twin, errors = copy.deepcopy(model), []
    for k in range(points):
        twin.load_state_dict(interpolated(first, second, k / (points - 1)))
        errors.append(float(error(twin)))
    return max(errors) - (errors[0] + errors[-1]) / 2


def instability(before: float, after: float) -> float:
    """The instability of a cut, (a − a′)/a of the accuracies before and right after it; stability is 1 minus that.

    Raises:
        SecateurError: an accuracy outside [0, 1], or nothing to lose (`before` is 0).

    Source: Bartoldson, Morcos, Barbu & Erlebacher, "The generalization-stability tradeoff", arXiv 1906.03728, §3.

    >>> instability(0.8, 0.6)
    0.25000000000000006
    """
    for name, value in (("before", before), ("after", after)):
        if not 0 <= value <= 1:
            raise SecateurError(f"`{name}` must be an accuracy in [0, 1], got {value:g}. Divide per cents by 100.")
    if before == 0:
        raise SecateurError("`before` is 0: a network that is never right has nothing to lose by a cut.")
    return (before - after) / before


def mask_distance(first: Masks, second: Masks) -> float:
    """The share of the kept weights that two masks do not have in common: 1 − |A ∩ B| / max(|A|, |B|).

    At a density of ½ that is the normalised Hamming distance of early-bird tickets (arXiv 1909.11957, §3), and it means
    the same at any other. Two independent masks of density d are 1 − d apart.

    >>> one, two = (Masks({"w": torch.arange(4) < kept}) for kept in (2, 1))
    >>> mask_distance(one, one), mask_distance(one, two)
    (0.0, 0.5)
    """
    most = max(first.kept, second.kept)
    return 1 - (first & second).kept / most if most else 0.0
