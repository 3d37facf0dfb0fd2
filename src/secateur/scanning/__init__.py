"""How much of each layer can go: error over kept fraction, layer by layer, and the smallest network within a loss."""

from __future__ import annotations

from secateur.scanning._scan import DENSITIES, Evaluate, Level, Sensitivity, sensitivity
from secateur.scanning._smallest import Smallest, smallest

__all__ = ["DENSITIES", "Evaluate", "Level", "Sensitivity", "Smallest", "sensitivity", "smallest"]
