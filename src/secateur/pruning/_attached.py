"""What a method attaches to a network in training, besides the held zeros: gates, their own training, a penalty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secateur._base.errors import SecateurError
from secateur.axes import Method, Moment
from secateur.masks import Masks, layouts
from secateur.measures import Batch, Loss, Params
from secateur.pruning._choose import choose_by
from secateur.pruning._gates import Gates
from secateur.pruning._penalties import Charges
from secateur.pruning._trainers import HeldOut, OwnTraining


class Attached:
    """The gates and the penalty of one method on one network, from the Pruner's first moment to the method's last."""

    def __init__(self, network: nn.Module, params: Params, method: Method) -> None:
        self._network, self._params, self._method = network, params, method
        self._gates: Gates | None = None
        self._retired = False
        self._training: HeldOut | OwnTraining | None = None
        self._charges: Charges | None = None

    def attach(self, batches: Iterable[Batch] | None, loss: Loss | None, generator: torch.Generator | None) -> None:
        """Put up what the method has; where that fails, `release` takes down what stands."""
        network, params, method = self._network, self._params, self._method
        if method.relax is not None:
            self._gates = Gates(network, params, method.relax, generator)
            if self._gates.held_out:
                self._training = HeldOut(network, self._gates, batches, loss)
            elif any(gate.own_trainer for gate in self._gates):
                self._training = OwnTraining(self._gates)
        if method.penalty is not None:
            self._charges = Charges(network, params, method.penalty, layouts(network, params))

    @property
    def gates(self) -> Gates | None:
        """The gates that have a say: none where the method has none, or once they have retired."""
        return None if self._retired else self._gates

    def parameters(self) -> list[nn.Parameter]:
        """The gates' own parameters, for an optimizer of the user's."""
        return [] if self._gates is None else self._gates.parameters()

    def adopt(self, optimizer: Optimizer) -> None:
        """See `Pruner.adopt`."""
        if self._gates is not None:
            self._gates.adopt(optimizer)

    def after_step(self, step: int) -> None:
        """Let gates and penalty do what follows optimizer step number `step`."""
        if self.gates is not None:
            if isinstance(self._training, OwnTraining):
                self._training.step()
            self.gates.after_step()
            if isinstance(self._training, HeldOut):
                self._training.step()
        if self._charges is not None:
            self._charges.step = step
            self._charges.after_step()

    def chosen(self, moment: Moment) -> Masks:
        """Let the scope choose, for the moment's density, by what the gates say that weights are worth; tell them."""
        if self.gates is None:
            raise SecateurError(f"{self._method.name} has no gates that could say what stays.")
        masks = Masks(choose_by(self._method, moment, self.gates.worths()), copy=False)
        self.gates.admit(masks)
        return masks

    def end(self) -> Masks | None:
        """The schedule's last milestone has been reached: the penalty ends; gates that retire are folded in."""
        self._end_penalty()
        if self.gates is None or not self.gates.retires:
            return None
        masks = self.gates.retire()
        self._retired, self._training = True, None
        return masks

    def ended(self) -> None:
        """Be as after `end`, without folding: for weights that are loaded from a checkpoint made after it."""
        self._end_penalty()
        if self.gates is not None and self.gates.retires:
            self.gates.stand_down()
            self._retired, self._training = True, None

    def fold(self) -> Masks | None:
        """Fold gates that still have a say, and take all away; None where nothing had."""
        self._end_penalty()
        masks = None if self.gates is None else self.gates.fold()
        self.release()
        return masks

    def release(self) -> None:
        """Take everything off the network, writing nothing. Twice is fine."""
        self._end_penalty()
        if self._gates is not None:
            self._gates.remove()
        self._gates = self._training = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs that is not in the model's own: the state of the gates' own training."""
        return {} if self._training is None else self._training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], *, step: int) -> None:
        """Go on from a `state_dict`, after optimizer step number `step`."""
        if self._charges is not None:
            self._charges.step = step
        if self._training is not None and state:
            self._training.load_state_dict(state)

    def _end_penalty(self) -> None:
        if self._charges is not None:
            self._charges.release()
        self._charges = None
