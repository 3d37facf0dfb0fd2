"""Secateur prunes PyTorch networks and makes them truly smaller and faster.

    import secateur as sc

    masks = sc.prune(model, sc.methods.snip(density=0.05), batches=[batch])   # once, before training
    sc.hold(model, masks)                                                      # train as usual: zeros stay zero

Seven nouns (Masks, Measure, Structure, Scope, Schedule, Gate, Method) and six verbs (prune, hold, shrink, sparsify,
compress, report) are the whole vocabulary.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Where each name comes from, imported when it is first asked for: torch alone takes a second, and `secateur --help` and
# scripts of one room should not wait for. The list above says the same to type checkers; a test compares the two. Rooms
# (`secateur.measures`) are found by their names.
_HOMES = {
    "secateur._base.errors": (
        "CheckpointWarning DerivativeError EarlyFinishWarning EmptyLayerWarning GateOptionsWarning LeakError "
        "LeftOutWarning MaskError MeasurementsWarning ScoreError SecateurError TiedScoresWarning "
        "UnfitModelError"
    ),
    "secateur._catalogue": "catalogue",
    "secateur.archive": "compress load",
    "secateur.axes": "Gate Method Penalty invert measured method penalty schedule scope structure",
    "secateur.axes.schedule": "Schedule",
    "secateur.axes.scope": "Scope",
    "secateur.axes.structure": "Structure",
    "secateur.costing": "cost",
    "secateur.holding": "Hold held hold",
    "secateur.masks": "Masks prunable",
    "secateur.measures": "Measure gather",
    "secateur.pruning": "Pruner prune reinit scores shuffle",
    "secateur.reporting": "benchmark report",
    "secateur.shrinking": "save shrink",
    "secateur.sparse": "densify sparsify",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a public name, or a room, when it is first asked for."""
    from importlib.util import find_spec

    home = _HOME.get(name, __name__)
    if home != __name__:
        value = getattr(importlib.import_module(home), name)
    elif name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        value = importlib.import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOME})
