"""Every published method, one file each: a factory named after the paper's acronym returns a `Method` value.

Files in this folder never import one another. Adding a method is one file and one line below.
"""

from __future__ import annotations

from secateur.methods.erk import erk
from secateur.methods.force import force, iter_snip
from secateur.methods.grasp import grasp
from secateur.methods.igq import igq
from secateur.methods.lamp import lamp
from secateur.methods.magnitude import magnitude
from secateur.methods.random import random
from secateur.methods.snip import snip
from secateur.methods.snip_it import snip_it
from secateur.methods.synflow import synflow

__all__ = [
    "erk",
    "force",
    "grasp",
    "igq",
    "iter_snip",
    "lamp",
    "magnitude",
    "random",
    "snip",
    "snip_it",
    "synflow",
]
