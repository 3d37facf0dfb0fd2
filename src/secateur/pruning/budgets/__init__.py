"""Budgets of effective weights, which `prune` keeps to."""

from __future__ import annotations

from secateur.pruning.budgets._reach import first_of, reach, refuse_unbudgeted

__all__ = ["first_of", "reach", "refuse_unbudgeted"]
