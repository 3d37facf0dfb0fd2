"""The phases of a run: what each does, who computes the training steps, and what stands beside every result."""

from __future__ import annotations

from secateur.lab.running._checkpoint import Checkpoint, Saved
from secateur.lab.running._effective import LayerUse, is_chain, layer_uses
from secateur.lab.running._engine import (
    Choice,
    SparseStepper,
    Stepper,
    TorchStepper,
    choose,
    sparse_below,
    start,
)
from secateur.lab.running._facts import cpu_name, machine, package_version, sizes
from secateur.lab.running._optimizer import build_optimizer
from secateur.lab.running._phases import Phase, masks_for, phases_of
from secateur.lab.running._result import Result, experiment_in
from secateur.lab.running._run import run, state_of, why_diverged
from secateur.lab.running._train import (
    DivergedError,
    Evaluation,
    Splits,
    Trail,
    error,
    evaluation_interval,
    evaluations,
    train,
)
from secateur.lab.running._work import (
    CHECKPOINT,
    EXPERIMENT,
    FAILURE,
    LEVEL,
    MASKS,
    PRUNE,
    RESULT,
    START,
    WEIGHTS,
    OnProgress,
    Progress,
    State,
    Work,
)

__all__ = [
    "CHECKPOINT",
    "EXPERIMENT",
    "FAILURE",
    "LEVEL",
    "MASKS",
    "PRUNE",
    "RESULT",
    "START",
    "WEIGHTS",
    "Checkpoint",
    "Choice",
    "DivergedError",
    "Evaluation",
    "LayerUse",
    "OnProgress",
    "Phase",
    "Progress",
    "Result",
    "Saved",
    "SparseStepper",
    "Splits",
    "State",
    "Stepper",
    "TorchStepper",
    "Trail",
    "Work",
    "build_optimizer",
    "choose",
    "cpu_name",
    "error",
    "evaluation_interval",
    "evaluations",
    "experiment_in",
    "is_chain",
    "layer_uses",
    "machine",
    "masks_for",
    "package_version",
    "phases_of",
    "run",
    "sizes",
    "sparse_below",
    "start",
    "state_of",
    "train",
    "why_diverged",
]
