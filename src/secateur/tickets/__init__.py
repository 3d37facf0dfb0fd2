"""What belongs to lottery tickets: parts of a training, criteria and actions, distances, and tickets that travel.

The searches themselves are programs (`secateur.programs`).
"""

from __future__ import annotations

from secateur.tickets._barrier import error_barrier, instability, interpolated, mask_distance
from secateur.tickets._criteria import (
    CRITERIA,
    Criterion,
    SurvivorRule,
    frozen,
    large_final,
    large_init,
    large_init_large_final,
    magnitude_increase,
    movement,
    reinitialised,
    reshuffled,
    rewound,
    same_sign,
    signed_constant,
    small_final,
    small_init,
    small_init_small_final,
    towards_zero,
)
from secateur.tickets._forgetting import Forgetting, predicted
from secateur.tickets._stage import (
    Stage,
    Staged,
    State,
    Train,
    own_parameters,
    restore,
    run_stage,
    shorter,
    snapshot,
)
from secateur.tickets._transfer import HeadRule, drawn_head, transfer

__all__ = [
    "CRITERIA",
    "Criterion",
    "Forgetting",
    "HeadRule",
    "Stage",
    "Staged",
    "State",
    "SurvivorRule",
    "Train",
    "drawn_head",
    "error_barrier",
    "frozen",
    "instability",
    "interpolated",
    "large_final",
    "large_init",
    "large_init_large_final",
    "magnitude_increase",
    "mask_distance",
    "movement",
    "own_parameters",
    "predicted",
    "reinitialised",
    "reshuffled",
    "restore",
    "rewound",
    "run_stage",
    "same_sign",
    "shorter",
    "signed_constant",
    "small_final",
    "small_init",
    "small_init_small_final",
    "snapshot",
    "towards_zero",
    "transfer",
]
