"""`secateur data`: published data sets, where they are, and brought here."""

from __future__ import annotations

from secateur.cli.datasets._data import add, execute

__all__ = ["add", "execute"]
