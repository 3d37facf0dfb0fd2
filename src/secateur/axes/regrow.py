"""Whether pruned weights may come back, and by what right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Revive:
    """Pruned weights compete again in every round, at the value they had before they were pruned (FORCE)."""


def revive() -> Revive:
    """Let pruned weights re-enter the ranking with their original value; their gradient is taken at the pruned point.

    Source: FORCE, arXiv 2006.09081, §4.2.
    """
    return Revive()
