"""Importance that comes from the network's responses: which of them matter, and what each unit before contributes."""

from __future__ import annotations

from secateur.propagation._infinite import infinite_selection
from secateur.propagation._response import importance

__all__ = ["importance", "infinite_selection"]
