"""Who computes a training step. The loop knows only this seam, so that a faster engine is a drop-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.errors import SecateurError
from secateur.hold import Hold, hold
from secateur.lab.recipe import Adam, Sgd
from secateur.masks import Masks


class Engine(StrEnum):
    """Which engine an experiment asks for; `auto` takes the fastest one that fits and records why."""

    AUTO = "auto"
    TORCH = "torch"
    SPARSE = "sparse"


@dataclass(frozen=True)
class Choice:
    """The engine that runs, and why it was chosen."""

    engine: Engine
    why: str


@runtime_checkable
class Stepper(Protocol):
    """One optimizer step after another, on a model whose zeros stay zero."""

    choice: Choice

    def step(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take one optimizer step at this learning rate; return the batch's mean loss, without a gradient."""
        ...

    def sync(self) -> None:
        """Bring the model's own parameters up to date, for an evaluation or a checkpoint."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's memory: `"<slot>/<parameter>"` → tensor."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a memory that `state` returned. The model's parameters have been loaded already."""
        ...

    def verify(self) -> None:
        """Raise a `LeakError` if a pruned weight is not zero."""
        ...

    def close(self) -> None:
        """Let go of the model, leaving no hook on it."""
        ...


class TorchStepper:
    """Eager torch: the model's own forward and backward, `torch.optim`, and `hold` to keep the zeros."""

    def __init__(self, choice: Choice, model: nn.Module, masks: Masks | None, optimizer: Sgd | Adam) -> None:
        self.choice = choice
        self.model = model
        self.names = dict(model.named_parameters())
        self.optimizer = build_optimizer(model, optimizer)
        self.hold: Hold | None = None if masks is None else hold(model, masks)

    def step(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Take one step: forward, cross-entropy, backward, update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.model(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def sync(self) -> None:
        """Do nothing: torch trains the model's own parameters."""

    def state(self) -> dict[str, Tensor]:
        """Flatten the optimizer's per-parameter state."""
        return {
            f"{slot}/{name}": value
            for name, parameter in self.names.items()
            for slot, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put the per-parameter state back where `state` found it."""
        for key, value in state.items():
            slot, _, name = key.partition("/")
            if name not in self.names:
                raise SecateurError(f"the checkpoint holds {slot!r} of {name!r}, which the model does not have.")
            parameter = self.names[name]
            # Adam's step counter lives on the CPU whatever the device; the moments live beside the parameter.
            place = parameter.device if value.shape == parameter.shape else value.device
            self.optimizer.state[parameter][slot] = value.to(place)

    def verify(self) -> None:
        """Check that no pruned weight came back."""
        if self.hold is not None:
            self.hold.check()

    def close(self) -> None:
        """Remove the hooks."""
        if self.hold is not None:
            self.hold.release()


def build_optimizer(model: nn.Module, optimizer: Sgd | Adam) -> torch.optim.Optimizer:
    """Return the torch optimizer that a recipe's value describes; the learning rate is set at each step."""
    if isinstance(optimizer, Sgd):
        return torch.optim.SGD(
            model.parameters(),
            lr=0.0,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            nesterov=optimizer.nesterov,
        )
    return torch.optim.Adam(
        model.parameters(),
        lr=0.0,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
    )


def choose(wanted: Engine) -> Choice:
    """Decide which engine runs.

    Raises:
        SecateurError: when `sparse` is asked for and is not there.
    """
    if wanted is Engine.TORCH:
        return Choice(Engine.TORCH, "asked for")
    if wanted is Engine.SPARSE:
        raise SecateurError("`engine` sparse is not in this version of Secateur. Use --engine auto or --engine torch.")
    return Choice(Engine.TORCH, "this version of Secateur has no sparse engine")


def start(choice: Choice, model: nn.Module, masks: Masks | None, optimizer: Sgd | Adam) -> Stepper:
    """Build the chosen engine around a model that has been pruned already."""
    return TorchStepper(choice, model, masks, optimizer)
