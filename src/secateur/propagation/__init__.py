"""Importance that runs through the network: from its responses back to each unit, or along the order of its layers."""

from __future__ import annotations

from secateur.propagation._infinite import infinite_selection
from secateur.propagation._influence import block_influence
from secateur.propagation._norms import greedy_norms
from secateur.propagation._response import importance

__all__ = ["block_influence", "greedy_norms", "importance", "infinite_selection"]
