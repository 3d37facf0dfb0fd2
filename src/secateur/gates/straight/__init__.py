"""Gates whose masks learn through a straight-through estimate: forward a choice, backward the scores behind it."""

from __future__ import annotations

from secateur.gates.straight._auxiliary import Auxiliary, auxiliaries
from secateur.gates.straight._binary import Binary, BinaryActivation, binaries
from secateur.gates.straight._edge_popup import EdgePopup, edge_popups
from secateur.gates.straight._movement import Movement, SoftMovement, moving, moving_above
from secateur.gates.straight._slot_machine import SlotMachine, slot_machines
from secateur.gates.straight._supermask import Supermask, supermasks

__all__ = [
    "Auxiliary",
    "Binary",
    "BinaryActivation",
    "EdgePopup",
    "Movement",
    "SlotMachine",
    "SoftMovement",
    "Supermask",
    "auxiliaries",
    "binaries",
    "edge_popups",
    "moving",
    "moving_above",
    "slot_machines",
    "supermasks",
]
