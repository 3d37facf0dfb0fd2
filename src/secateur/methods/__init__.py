"""Every published method, one file each: a factory named after the paper's acronym returns a `Method` value.

Files in this folder never import one another. Adding a method is one file and one line below.
"""

from __future__ import annotations

from secateur.methods._erk import erk
from secateur.methods._force import force, iter_snip
from secateur.methods._grasp import grasp
from secateur.methods._igq import igq
from secateur.methods._lamp import lamp
from secateur.methods._magnitude import magnitude
from secateur.methods._random import random
from secateur.methods._snip import snip
from secateur.methods._snip_it import snip_it
from secateur.methods._synflow import synflow

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
