"""Which engine an experiment asks for."""

from __future__ import annotations

from enum import StrEnum

from secateur._base.errors import SecateurError

#: Why the sparse engine does not take a run in bfloat16.
BF16 = "it trains in bfloat16, and the sparse engine computes in float32"


class Engine(StrEnum):
    """Which engine an experiment asks for; `auto` takes the fastest one that fits and records why."""

    AUTO = "auto"
    TORCH = "torch"
    SPARSE = "sparse"


def misfit(reason: str) -> SecateurError:
    """Return the error for a run that asks for the sparse engine and does not fit it."""
    return SecateurError(f"`engine` sparse does not fit this run: {reason}. Use --engine auto or torch.")
