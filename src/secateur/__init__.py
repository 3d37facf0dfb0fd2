"""Secateur prunes PyTorch networks and makes them truly smaller and faster.

    import secateur as sc

    masks = sc.prune(model, sc.methods.snip(density=0.05), batches=[batch])   # once, before training
    sc.hold(model, masks)                                                      # train as usual: zeros stay zero

Seven nouns (Masks, Measure, Structure, Scope, Schedule, Gate, Method) and six verbs (prune, hold, shrink, sparsify,
compress, report) are the whole vocabulary; Gate and the verbs shrink, compress and report belong to releases to come.
"""

from __future__ import annotations

from secateur import measures, methods, schedule, scope, structure
from secateur.catalogue import catalogue
from secateur.errors import (
    EarlyFinishWarning,
    EmptyLayerWarning,
    LeakError,
    MaskError,
    ScoreError,
    SecateurError,
)
from secateur.gather import gather
from secateur.hold import Hold, held, hold
from secateur.masks import Masks
from secateur.measure import Measure
from secateur.method import Method, invert, method
from secateur.prunable import prunable
from secateur.prune import prune, scores
from secateur.pruner import Pruner
from secateur.schedule import Schedule
from secateur.scope import Scope
from secateur.score import measured
from secateur.sparse import densify, sparsify
from secateur.structure import Structure
from secateur.transforms import reinit, shuffle

__version__ = "0.1.0"

__all__ = [
    "EarlyFinishWarning",
    "EmptyLayerWarning",
    "Hold",
    "LeakError",
    "MaskError",
    "Masks",
    "Measure",
    "Method",
    "Pruner",
    "Schedule",
    "Scope",
    "ScoreError",
    "SecateurError",
    "Structure",
    "catalogue",
    "densify",
    "gather",
    "held",
    "hold",
    "invert",
    "measured",
    "measures",
    "method",
    "methods",
    "prunable",
    "prune",
    "reinit",
    "schedule",
    "scope",
    "scores",
    "shuffle",
    "sparsify",
    "structure",
]
