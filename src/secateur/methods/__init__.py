"""Every published method, one file each: a factory named after the paper's acronym returns a `Method` value.

Files in this folder never import one another. Adding a method is one file and one line below.
"""

from __future__ import annotations

from secateur.axes import speaking
from secateur.methods._agp import agp
from secateur.methods._auto_prune import auto_prune
from secateur.methods._dns import dns
from secateur.methods._edge_popup import edge_popup
from secateur.methods._erk import erk
from secateur.methods._espn import espn
from secateur.methods._filter_skeleton import filter_skeleton
from secateur.methods._force import force, iter_snip
from secateur.methods._grasp import grasp
from secateur.methods._igq import igq
from secateur.methods._l0 import l0
from secateur.methods._lamp import lamp
from secateur.methods._lwc import lwc
from secateur.methods._magnitude import magnitude
from secateur.methods._movement import movement, soft_movement
from secateur.methods._obd import obd
from secateur.methods._random import random
from secateur.methods._rigl import rigl
from secateur.methods._set import set_
from secateur.methods._slot_machines import slot_machines
from secateur.methods._snip import snip
from secateur.methods._snip_it import snip_it
from secateur.methods._soft_weight_sharing import soft_weight_sharing
from secateur.methods._supermask import supermask
from secateur.methods._synflow import synflow
from secateur.methods._variational_dropout import variational_dropout

__all__ = [
    "agp",
    "auto_prune",
    "dns",
    "edge_popup",
    "erk",
    "espn",
    "filter_skeleton",
    "force",
    "grasp",
    "igq",
    "iter_snip",
    "l0",
    "lamp",
    "lwc",
    "magnitude",
    "movement",
    "obd",
    "random",
    "rigl",
    "set_",
    "slot_machines",
    "snip",
    "snip_it",
    "soft_movement",
    "soft_weight_sharing",
    "supermask",
    "synflow",
    "variational_dropout",
]


for _name in __all__:
    globals()[_name] = speaking(globals()[_name])
