"""Gates that compute a weight from fewer numbers than it has: shared, hashed, predicted, factored."""

from __future__ import annotations

from secateur.gates.representations._hashed import Hashed, hashing, mixed
from secateur.gates.representations._looked_up import looked_up
from secateur.gates.representations._low_rank import Kernel, LowRank, low_ranks, squared_exponential
from secateur.gates.representations._shared import Shared, sharing
from secateur.gates.representations._sparse_factors import SparseFactors, factoring

__all__ = [
    "Hashed",
    "Kernel",
    "LowRank",
    "Shared",
    "SparseFactors",
    "factoring",
    "hashing",
    "looked_up",
    "low_ranks",
    "mixed",
    "sharing",
    "squared_exponential",
]
