"""Pruned weights stay zero, in any training loop, under any torch optimizer."""

from secateur.holding._hold import Hold, held, hold
from secateur.holding._memory import BY_ENTRY, starts_at
from secateur.holding._steps import unwatch, watch

__all__ = ["BY_ENTRY", "Hold", "held", "hold", "starts_at", "unwatch", "watch"]
