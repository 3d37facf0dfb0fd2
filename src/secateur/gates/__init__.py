"""Gates that methods put on weights while a network trains, one file each; `Gate` itself is in `secateur.axes`."""

from __future__ import annotations

from secateur.gates._clarified import Clarified, clarified
from secateur.gates._compressed import Compressed, compressed
from secateur.gates._hard_concrete import HardConcrete, hard_concrete
from secateur.gates._mixture import Mixture, Sharing, mixture
from secateur.gates._ramp import Ramp, rising
from secateur.gates._shrinking_mask import ShrinkingMask, shrinking_masks
from secateur.gates._skeleton import Skeleton, skeletons
from secateur.gates._surgery import Surgery, surgery
from secateur.gates._variational import VariationalDropout, variational
from secateur.gates.representations import (
    Hashed,
    LowRank,
    Shared,
    SparseFactors,
    factoring,
    hashing,
    low_ranks,
    sharing,
    squared_exponential,
)
from secateur.gates.straight import (
    Auxiliary,
    Binary,
    BinaryActivation,
    EdgePopup,
    Movement,
    SlotMachine,
    SoftMovement,
    Supermask,
    auxiliaries,
    binaries,
    edge_popups,
    moving,
    moving_above,
    slot_machines,
    supermasks,
)

__all__ = [
    "Auxiliary",
    "Binary",
    "BinaryActivation",
    "Clarified",
    "Compressed",
    "EdgePopup",
    "HardConcrete",
    "Hashed",
    "LowRank",
    "Mixture",
    "Movement",
    "Ramp",
    "Shared",
    "Sharing",
    "ShrinkingMask",
    "Skeleton",
    "SlotMachine",
    "SoftMovement",
    "SparseFactors",
    "Supermask",
    "Surgery",
    "VariationalDropout",
    "auxiliaries",
    "binaries",
    "clarified",
    "compressed",
    "edge_popups",
    "factoring",
    "hard_concrete",
    "hashing",
    "low_ranks",
    "mixture",
    "moving",
    "moving_above",
    "rising",
    "sharing",
    "shrinking_masks",
    "skeletons",
    "slot_machines",
    "squared_exponential",
    "supermasks",
    "surgery",
    "variational",
]
