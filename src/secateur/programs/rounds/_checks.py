"""What a search refuses before anything is trained, and how it trains."""

from __future__ import annotations

from contextlib import nullcontext

from torch import nn

from secateur._base.errors import SecateurError
from secateur.axes import Scope, scope
from secateur.holding import hold
from secateur.masks import Masks
from secateur.selection import check_density
from secateur.tickets import Stage, Staged, State, run_stage


def scope_of(round_: int, among: Scope | None, *, layerwise: bool) -> Scope | None:
    """Who competes in a round: the scope given, every layer by itself with the last at half the rate, or all."""
    if layerwise and among is not None:
        raise SecateurError(f"`layerwise` and `scope` both say who competes, got scope={among.name}. Leave one out.")
    return scope.slower_last(rounds=round_) if layerwise else among


def check(density: float, rounds: int) -> None:
    """Refuse a density or a number of rounds that makes no sense."""
    check_density(density)
    if rounds < 1:
        raise SecateurError(f"`rounds` must be at least 1, got {rounds}.")


def check_step(name: str, step: int, steps: int, *, least: int = 0) -> None:
    """Refuse a step that is not one of training."""
    if steps < 1:
        raise SecateurError(f"`steps` must be at least 1, the length of training, got {steps}.")
    if not least <= step <= steps:
        raise SecateurError(f"`{name}` must be a step of training, from {least} to steps={steps}, got {step}.")


def staged(train: Staged, model: nn.Module, masks: Masks | None, stage: Stage) -> State:
    """Train for a stage, what has been cut held at zero."""
    with hold(model, masks) if masks is not None else nullcontext():
        return run_stage(train, model, stage)
