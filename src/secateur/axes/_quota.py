"""How many weights each layer may keep: quotas from shapes alone (ERK, ideal gas), and rounding that adds up."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from secateur._base.errors import SecateurError

Shapes = Mapping[str, torch.Size]


def erk_densities(shapes: Shapes, density: float, *, power: float = 1.0) -> dict[str, float]:
    """Erdős–Rényi-kernel densities d_l with Σ d_l N_l = ρN, before rounding.

    d_l = ε·r_l with r_l = ((Σ of the dimensions of layer l)/(their product))^`power`. Where ε·r_l would exceed 1, the
    layers of the largest r are made dense and ε is solved again for the others.
    Source: Evci et al., RigL, arXiv 1911.11134, §3, item (1); golden values in the tests.

    Deviates: the ImageNet code of RigL removes ⌊(1 − d_l)N_l⌋ per layer, so its total drifts; here the rounding is
    left to the caller, who makes the total exact (`largest_remainder`).

    >>> shapes = {"fc1": torch.Size([300, 784]), "fc2": torch.Size([100, 300]), "fc3": torch.Size([10, 100])}
    >>> {name: round(d, 5) for name, d in erk_densities(shapes, 0.1).items()}
    {'fc1': 0.07957, 'fc2': 0.23019, 'fc3': 1.0}
    """
    raw = {name: (sum(shape) / shape.numel()) ** power for name, shape in shapes.items()}
    size = {name: shape.numel() for name, shape in shapes.items()}
    dense: set[str] = set()
    while len(dense) < len(raw):
        sparse = [name for name in raw if name not in dense]
        room = density * sum(size.values()) - sum(size[name] for name in dense)
        epsilon = room / sum(raw[name] * size[name] for name in sparse)
        largest = max(raw[name] for name in sparse)
        if epsilon * largest <= 1:
            return {name: 1.0 if name in dense else epsilon * raw[name] for name in raw}
        dense |= {name for name in sparse if raw[name] == largest}
    return dict.fromkeys(raw, 1.0)


def igq_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """Ideal-gas quotas d_l = 1/(F·N_l + 1) with F ≥ 0 found by bisection so that Σ d_l N_l = ρN, before rounding.

    Source: Vysogorets & Kempe, "Connectivity matters", arXiv 2107.02306, §4; golden values in the tests.

    >>> shapes = {"fc1": torch.Size([300, 784]), "fc2": torch.Size([100, 300]), "fc3": torch.Size([10, 100])}
    >>> {name: round(d, 5) for name, d in igq_densities(shapes, 0.1).items()}
    {'fc1': 0.06445, 'fc2': 0.35068, 'fc3': 0.94187}
    """
    size = {name: shape.numel() for name, shape in shapes.items()}
    wanted = density * sum(size.values())

    def kept(force: float) -> float:
        return sum(n / (force * n + 1) for n in size.values())

    low, high = 0.0, 1.0
    while kept(high) > wanted:
        high *= 2
    for _ in range(200):  # halves the bracket until doubles cannot tell its ends apart
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) > wanted else (low, middle)
    return {name: 1 / (high * n + 1) for name, n in size.items()}


def largest_remainder(ideal: Mapping[str, float], size: Mapping[str, int], total: int) -> dict[str, int]:
    """Round ideal counts to whole ones that add up to exactly `total`, none above its layer's size.

    Every layer gets ⌊ideal⌋; what is left goes, one each, to the largest remainders (ties: earlier layers first).
    """
    if not 0 <= total <= sum(size.values()):
        raise SecateurError(f"`total` must be between 0 and {sum(size.values())}, got {total}.")
    # A solver's error of 1e-12 must not turn 25.0 into 24: whole numbers are taken as such.
    counts = {name: min(size[name], math.floor(value + 1e-6)) for name, value in ideal.items()}
    order = sorted(counts, key=lambda name: counts[name] - ideal[name])
    missing = total - sum(counts.values())
    while missing:
        step = 1 if missing > 0 else -1
        for name in order if step > 0 else reversed(order):
            if missing and 0 <= counts[name] + step <= size[name]:
                counts[name] += step
                missing -= step
    return counts
