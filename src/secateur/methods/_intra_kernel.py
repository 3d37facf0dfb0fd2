"""IKR: every kernel of a layer keeps as many positions, by few patterns that its kernels share."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, method
from secateur.axes.schedule import linear, once
from secateur.axes.scope import patterns as few
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def intra_kernel(
    density: float = 4 / 9, *, patterns: int = 8, rounds: int = 1, begin: int = 0, every: int = 1
) -> Method:
    """Keep n weights of every kernel, the same number in all of a layer, by one of at most P patterns.

    n = max(1, ⌊ρk² + ½⌋) of k² positions: 4/9 keeps 4 of 3×3. A kernel's own best pattern is its n largest |w|; the P
    patterns that are best for most kernels of a layer are its dictionary D; each kernel gets argmax_{p ∈ D} Σ |w| ⊙ p.
    A kernel is then n values and the number of its pattern, which hardware can walk in step. Linear and 1×1 layers stay
    whole and do not count.

    Args:
        density: n/k², the fraction of each kernel that stays.
        patterns: P, how many a layer may have.
        rounds: cuts on the way to the density, each of as many weights; the network should train between them.
        begin: step of the first cut, for a `Pruner`.
        every: steps between two cuts.

    Family: after training.
    Source: Yang, Faraj, Hussein & Gaudet, "Efficient hardware realization of convolutional neural networks using
    intra-kernel regular pruning", arXiv 1803.05909, from its abstract and memory.
    Deviates: how the authors choose their patterns is not known to this library; frequency, as here, is the rule that
    later pattern pruning uses.
    """
    gradual = linear(density, rounds=rounds, begin=begin, every=every) if rounds != 1 else None
    return method(
        "intra_kernel",
        score,
        structure=weights(),
        scope=few(patterns),
        schedule=gradual or once(density, at=begin),
    )
