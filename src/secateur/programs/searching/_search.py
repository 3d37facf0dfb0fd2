"""Propose masks, evaluate the pruned network, tell the proposer; again: a search by any proposer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from secateur._base.arguments import require_model
from secateur._base.errors import SecateurError
from secateur.holding import hold
from secateur.masks import Masks

Evaluate = Callable[[nn.Module, Masks], float]


@dataclass(frozen=True)
class Trial:
    """Masks that were tried, and what the pruned network was worth: higher is better."""

    masks: Masks
    value: float


@runtime_checkable
class Proposer(Protocol):
    """What a search asks for masks: a policy that learns, an evolution, a grid, or yours."""

    def propose(self, generator: torch.Generator) -> Masks:
        """Masks to try next, drawn from `generator`."""
        ...

    def feedback(self, trials: Sequence[Trial]) -> None:
        """What became of the proposals since the last feedback, in their order."""
        ...


def search(
    model: nn.Module,
    *,
    proposer: Proposer,
    evaluate: Evaluate,
    train: Callable[[nn.Module], None] | None = None,
    rounds: int = 20,
    samples: int = 5,
    generator: torch.Generator | None = None,
) -> tuple[Trial, ...]:
    """Let a proposer try masks: `rounds` times `samples` proposals, each evaluated, and then told how they did.

    Each trial begins with the model as it was: zeros are written, `train` runs with them held, `evaluate(model, masks)`
    says what that is worth. Afterwards the model is as it was: `max(trials, key=lambda one: one.value)` is the best.
    """
    require_model(model, "search(model, proposer=…, evaluate=…)")
    if rounds < 1 or samples < 1:
        raise SecateurError(f"`rounds` and `samples` must be at least 1, got {rounds} and {samples}.")
    drawn = generator if generator is not None else torch.Generator().manual_seed(torch.initial_seed())
    start, modes = copy.deepcopy(model.state_dict()), {module: module.training for module in model.modules()}
    done: list[Trial] = []
    for _ in range(rounds):
        for _ in range(samples):
            masks = proposer.propose(drawn)
            masks.check(model)
            try:
                with hold(model, masks):
                    train(model) if train is not None else None
                    value = float(evaluate(model, masks))
            finally:
                model.load_state_dict(start)
                for module, mode in modes.items():
                    module.training = mode
            if not math.isfinite(value):
                raise SecateurError(f"`evaluate` must return a finite number, got {value}: did the training diverge?")
            done.append(Trial(masks, value))
        proposer.feedback(done[-samples:])
    return tuple(done)
