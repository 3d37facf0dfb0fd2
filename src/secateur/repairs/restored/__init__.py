"""Repairs of untrained networks: survivors through which signals carry as they did in the dense one."""

from __future__ import annotations

from secateur.repairs.restored._isometry import Isometric, isometric
from secateur.repairs.restored._rescaled import Rescaled, rescaled

__all__ = ["Isometric", "Rescaled", "isometric", "rescaled"]
