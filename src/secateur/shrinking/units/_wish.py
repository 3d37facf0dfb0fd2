"""From what units are worth to those that go: of every group as many, the least worthy."""

from __future__ import annotations

import numpy as np
import torch

from secateur.coupling import Coupling, spread
from secateur.selection import kept_count, topk_mask
from secateur.shrinking.units._limits import Limits

__all__ = ["wish_of"]


def wish_of(coupling: Coupling, worth: np.ndarray, density: float, limits: Limits | None = None) -> np.ndarray:
    """Return the classes that go when every group keeps the same share of its units, the worthiest.

    Args:
        coupling: what is tied to what.
        worth: of each class.
        density: the share of units that stays, in (0, 1].
        limits: which units may be chosen, and how many of them must stay.
    """
    limits = limits or Limits()
    gone = np.zeros(coupling.count, bool)
    for group in coupling.groups:
        units = group.units if limits.free is None else group.units[limits.free[group.units]]
        if not len(units):
            continue
        left = units[~gone[units]]  # some may have gone with units of a group before
        fixed = len(group.units) - len(units)
        keep = limits.keep(coupling, group, fixed + kept_count(density, len(units)), len(group.units)) - fixed
        if keep >= len(left):
            continue
        if keep > 0:
            chosen = topk_mask({group.name: torch.from_numpy(worth[left])}, keep)[group.name].numpy()
            left = left[~chosen]
        seeds = np.zeros(coupling.count, bool)
        seeds[left] = True
        gone = spread(coupling, seeds, gone)
    return gone | _followers(coupling)


def _followers(coupling: Coupling) -> np.ndarray:
    """Products of which nothing is a parameter's: they go wherever they can."""
    merged = coupling.mark([product.merged.ravel() for product in coupling.products])
    owned = coupling.mark([entry.ids for entry in coupling.entries])
    factors = coupling.mark([ids for product in coupling.products for ids in product.factors if ids is not None])
    return merged & ~owned & ~factors
