"""Secateur prunes PyTorch networks and makes them truly smaller and faster.

    import secateur as sc

    masks = sc.prune(model, sc.methods.snip(density=0.05), batches=[batch])   # once, before training
    sc.hold(model, masks)                                                      # train as usual: zeros stay zero

Seven nouns (Masks, Measure, Structure, Scope, Schedule, Gate, Method) and six verbs (prune, hold, shrink, sparsify,
compress, report) are the whole vocabulary.
"""

from __future__ import annotations

from secateur import coupling, measures, methods, programs, repairs
from secateur._base.errors import (
    CheckpointWarning,
    DerivativeError,
    EarlyFinishWarning,
    EmptyLayerWarning,
    GateOptionsWarning,
    LeakError,
    LeftOutWarning,
    MaskError,
    MeasurementsWarning,
    ScoreError,
    SecateurError,
    TiedScoresWarning,
    UnfitModelError,
)
from secateur._catalogue import catalogue

# Public, and not in `__all__`, as `benchmark` and `report` are: the front door has room for no more words.
from secateur.archive import compress as compress
from secateur.archive import load
from secateur.axes import Gate, Method, Penalty, invert, measured, method, penalty, schedule, scope, structure
from secateur.axes.schedule import Schedule
from secateur.axes.scope import Scope
from secateur.axes.structure import Structure
from secateur.costing import cost
from secateur.holding import Hold, held, hold
from secateur.masks import Masks, prunable
from secateur.measures import Measure, gather
from secateur.pruning import Pruner, prune, reinit, scores, shuffle
from secateur.reporting import benchmark as benchmark
from secateur.reporting import report as report
from secateur.shrinking import save, shrink
from secateur.sparse import densify, sparsify

__version__ = "0.1.0"

__all__ = [
    "CheckpointWarning",
    "DerivativeError",
    "EarlyFinishWarning",
    "EmptyLayerWarning",
    "Gate",
    "GateOptionsWarning",
    "Hold",
    "LeakError",
    "LeftOutWarning",
    "MaskError",
    "Masks",
    "Measure",
    "MeasurementsWarning",
    "Method",
    "Penalty",
    "Pruner",
    "Schedule",
    "Scope",
    "ScoreError",
    "SecateurError",
    "Structure",
    "TiedScoresWarning",
    "UnfitModelError",
    "catalogue",
    "cost",
    "coupling",
    "densify",
    "gather",
    "held",
    "hold",
    "invert",
    "load",
    "measured",
    "measures",
    "method",
    "methods",
    "penalty",
    "programs",
    "prunable",
    "prune",
    "reinit",
    "repairs",
    "save",
    "schedule",
    "scope",
    "scores",
    "shrink",
    "shuffle",
    "sparsify",
    "structure",
]
