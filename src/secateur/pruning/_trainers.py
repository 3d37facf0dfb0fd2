"""Gates with trainers of their own: after each step of the weights one of theirs, by its gradients or held-out ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secateur._base.errors import SecateurError
from secateur.axes import Gate
from secateur.measures import Batch, Loss, Probe, all_mean, preserved, reduced
from secateur.pruning._gates import Gates


class OwnTraining:
    """The trainers of gates that do not learn at the pace of the weights."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        found = [gate.trainer() for gate in gates if gate.own_trainer]
        self._optimizers: list[Optimizer] = [optimizer for optimizer in found if optimizer is not None]

    def step(self) -> None:
        """Take one step by the gradients that the step of the weights left."""
        taken = self._gates.take_gradients()
        for parameter, grad in taken.items():
            parameter.grad = grad
        for optimizer in self._optimizers:
            optimizer.step()
        for parameter in taken:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What the trainers remember."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for optimizer, found in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(dict(found))


class HeldOut:
    """The gates' own training: batches in turn, and an optimizer for each gate.

    The gates' parameters are frozen but for the time of their own step, so that no gradient of the training loss
    reaches them, whoever's optimizer has them.
    """

    def __init__(
        self, network: nn.Module, gates: Iterable[Gate], batches: Iterable[Batch] | None, loss: Loss | None
    ) -> None:
        self._network, self._loss = network, loss
        self._batches = [] if batches is None else list(batches)
        learning = [gate for gate in gates if any(True for _ in gate.parameters())]
        if not self._batches:
            raise SecateurError(
                f"{type(learning[0]).__name__} learns from examples that the weights are not trained on, and `batches` "
                f"is {'empty' if batches is not None else 'not given'}: pass Pruner(model, method, batches) the "
                "batches of a held-out part of the training set."
            )
        self._own = {f"{i}.{n}": p for i, gate in enumerate(learning) for n, p in gate.named_parameters()}
        found = [gate.trainer() for gate in learning]
        self._optimizers: list[Optimizer] = [optimizer for optimizer in found if optimizer is not None]
        self._taken = 0
        self._freeze(True)

    def step(self) -> None:
        """Take one step of all gates on the next batch; weights, buffers and random state stay as they are."""
        batch = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        with torch.enable_grad(), preserved(self._network, self._own):
            probe = Probe(self._network, self._own, batch, self._loss)
            grads = reduced(probe.differentiate(probe.evaluate()), all_mean)
        self._freeze(False)
        try:
            for name, parameter in self._own.items():
                found = grads.get(name)
                parameter.grad = None if found is None else found.to(parameter.dtype)
            for optimizer in self._optimizers:
                optimizer.step()
        finally:
            self._freeze(True)

    def state_dict(self) -> dict[str, Any]:
        """How far the batches have been seen, and what the optimizers remember."""
        return {"taken": self._taken, "optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._taken = int(state["taken"])
        for optimizer, found in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(dict(found))

    def _freeze(self, frozen: bool) -> None:
        for parameter in self._own.values():
            parameter.requires_grad_(not frozen)
            parameter.grad = None
