"""How many weights each layer may keep: quotas from shapes alone (ERK, ideal gas, …), and rounding that adds up."""

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


def uniform_plus_densities(shapes: Shapes, density: float, *, last: float = 0.2) -> dict[str, float]:
    """The same density everywhere, but the first layer dense and the last at `last` at least; Σ d_l N_l = ρN.

    d is solved from what the first layer (and the last, where d would be below its floor) leave of ρN.

    >>> shapes = {"fc1": torch.Size([4, 5]), "fc2": torch.Size([30, 10]), "fc3": torch.Size([10, 10])}
    >>> {name: round(d, 4) for name, d in uniform_plus_densities(shapes, 0.12).items()}
    {'fc1': 1.0, 'fc2': 0.0347, 'fc3': 0.2}
    """
    size = {name: shape.numel() for name, shape in shapes.items()}
    first, final = next(iter(size)), next(reversed(size))
    if len(size) < 2:
        return {first: density}
    found = {first: 1.0}
    for floor in ({}, {final: last}):
        fixed = found | floor
        rest = sum(count for name, count in size.items() if name not in fixed)
        room = density * sum(size.values()) - sum(part * size[name] for name, part in fixed.items())
        if room >= (0 if floor else last * rest):
            return {name: fixed.get(name, room / max(1, rest)) for name in size}
    least = (size[first] + last * size[final]) / sum(size.values())
    raise SecateurError(
        f"uniform_plus keeps {first!r} whole and {last:.0%} of {final!r}, which is {least:.3g} of all weights: more "
        f"than `density`={density:g}. Ask for a higher density, or for another scope (`erk`, `layerwise`)."
    )


def erdos_renyi_densities(shapes: Shapes, epsilon: float) -> dict[str, float]:
    """d_l = min(1, ε(n_in + n_out)/(n_in·n_out)), whatever the kernel's size; tensors of one dimension are dense.

    >>> erdos_renyi_densities({"fc": torch.Size([100, 300])}, 20)
    {'fc': 0.26666666666666666}
    """
    return {
        name: min(1.0, epsilon * (shape[0] + shape[1]) / (shape[0] * shape[1])) if len(shape) > 1 else 1.0
        for name, shape in shapes.items()
    }


def smart_ratio_densities(shapes: Shapes, density: float, *, last: float = 0.3) -> dict[str, float]:
    """d_l = c·((L − l + 1)² + (L − l + 1)) of the L layers in the model's order, the last at `last` if it is a matrix.

    c is such that Σ d_l N_l = ρN; where d_l would exceed 1 the layer is dense and c is solved again for the others.
    Where all others are dense, the last layer takes what is left. A network of one layer has the density.

    >>> shapes = {"fc1": torch.Size([300, 784]), "fc2": torch.Size([100, 300]), "fc3": torch.Size([10, 100])}
    >>> {name: round(d, 5) for name, d in smart_ratio_densities(shapes, 0.1).items()}
    {'fc1': 0.1052, 'fc2': 0.0526, 'fc3': 0.3}
    """
    size, depth = {name: shape.numel() for name, shape in shapes.items()}, len(shapes)
    final = next(reversed(size))
    if depth < 2:
        return {final: density}
    raw = {name: float((depth - k) ** 2 + (depth - k)) for k, name in enumerate(size)}
    found = {final: last} if len(shapes[final]) == 2 else {}
    wanted = density * sum(size.values())
    if sum(part * size[name] for name, part in found.items()) > wanted:
        least = last * size[final] / sum(size.values())
        raise SecateurError(
            f"smart_ratio keeps {last:.0%} of {final!r}, which is {least:.3g} of all weights: more than "
            f"`density`={density:g}. Ask for a higher density, or for a lower `last`."
        )
    while rest := [name for name in raw if name not in found]:
        room = wanted - sum(part * size[name] for name, part in found.items())
        factor = room / sum(raw[name] * size[name] for name in rest)
        full = [name for name in rest if factor * raw[name] > 1]
        found |= {name: 1.0 for name in full} if full else {name: factor * raw[name] for name in rest}
    missing = wanted - sum(part * size[name] for name, part in found.items())
    return {name: found[name] + (max(0.0, missing) / size[final] if name == final else 0.0) for name in size}


def slower_last_densities(shapes: Shapes, density: float, *, rounds: int) -> dict[str, float]:
    """f^R for all layers but the last, ((1 + f)/2)^R for the last, with f by bisection so that Σ d_l N_l = ρN.

    >>> shapes = {"fc1": torch.Size([300, 784]), "fc2": torch.Size([100, 300]), "fc3": torch.Size([10, 100])}
    >>> found = slower_last_densities(shapes, 0.8 * 0.99624 + 0.9 * 0.00376, rounds=1)
    >>> {name: round(d, 3) for name, d in found.items()}
    {'fc1': 0.8, 'fc2': 0.8, 'fc3': 0.9}
    """
    size = {name: shape.numel() for name, shape in shapes.items()}
    final = next(reversed(size))

    def found(share: float) -> dict[str, float]:
        return {name: ((1 + share) / 2 if name == final else share) ** rounds for name in size}

    def kept(share: float) -> float:
        return sum(part * size[name] for name, part in found(share).items())

    low, high = -1.0, 1.0  # below 0, only the last layer has anything
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if kept(max(middle, 0.0)) > density * sum(size.values()) else (middle, high)
    if high > 0:
        return found(high)
    return {name: density * sum(size.values()) / size[final] if name == final else 0.0 for name in size}


def apportioned(total: int, weights: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """Share `total` out in proportion to `weights`, none above its `room`; what overflows goes to the others.

    Exactly `total` altogether (largest remainders). Where all that have room weigh nothing, they share by their room.

    >>> apportioned(10, {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 4, "b": 9, "c": 9})
    {'a': 4, 'b': 3, 'c': 3}
    """
    ideal, left, open_ = dict.fromkeys(room, 0.0), float(total), [name for name in room if room[name]]
    while open_ and left > 0:
        parts = {name: weights[name] for name in open_}
        if not sum(parts.values()) > 0:
            parts = {name: float(room[name]) for name in open_}
        each = left / sum(parts.values())
        full = [name for name in open_ if each * parts[name] >= room[name]]
        ideal |= {name: float(room[name]) if name in full else each * parts[name] for name in open_}
        left -= sum(room[name] for name in full)
        open_ = [name for name in open_ if name not in full]
        if not full:
            break
    return largest_remainder(ideal, room, total)
