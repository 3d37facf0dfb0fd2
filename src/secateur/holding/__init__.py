"""Pruned weights stay zero, in any training loop, under any torch optimizer."""

from secateur.holding._hold import Hold, held, hold

__all__ = ["Hold", "held", "hold"]
