"""Modules of Lightning, pruned while its Trainer trains them."""

from __future__ import annotations

from secateur.integrations.lightning._callback import PrunerCallback

__all__ = ["PrunerCallback"]
