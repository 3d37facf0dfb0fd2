"""Gates that methods put on weights while a network trains, one file each; `Gate` itself is in `secateur.axes`."""

from __future__ import annotations

from secateur.gates._clarified import Clarified, clarified
from secateur.gates._compressed import Compressed, compressed
from secateur.gates._hard_concrete import HardConcrete, hard_concrete
from secateur.gates._ramp import Ramp, rising
from secateur.gates._surgery import Surgery, surgery

__all__ = [
    "Clarified",
    "Compressed",
    "HardConcrete",
    "Ramp",
    "Surgery",
    "clarified",
    "compressed",
    "hard_concrete",
    "rising",
    "surgery",
]
