"""A method's penalty at work: its gradient before each optimizer step, its proximal step after it."""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch import nn
from torch.optim import Optimizer

from secateur._base.errors import UnfitModelError
from secateur.axes.penalty import Penalty
from secateur.holding import unwatch, watch
from secateur.masks import Layout
from secateur.measures import Params
from secateur.pruning._charge import charge, rate_of
from secateur.pruning._refusals import refuse_closure


class Charges:
    """What a penalty does to the parameters that it reaches, until it is released."""

    def __init__(self, network: nn.Module, params: Params, penalty: Penalty, layouts: Mapping[str, Layout]) -> None:
        self._penalty = penalty
        self.step = 0  # optimizer steps seen by the Pruner
        self._layouts = layouts
        self._reached = dict(penalty.reach(network, params))
        if not self._reached:
            raise UnfitModelError(
                f"the penalty {penalty.name!r} reaches no parameter of this model. Check `only`, and that the model "
                "has the layers that the method is about (batch norm, for a penalty on its scales)."
            )
        self._rates = dict.fromkeys(self._reached, 0.0)
        self._number = watch(self)

    def after_step(self) -> None:
        """Take the proximal step, with the learning rate of the optimizer's step before it."""
        penalty = self._penalty.at(self.step)
        if penalty is None or penalty.prox is None:
            return
        with torch.no_grad():
            for name, parameter in self._reached.items():
                layout = self._layouts.get(name)
                turned = parameter if layout is None else layout.to_canonical(parameter)
                moved = penalty.prox(name, turned, penalty.every * self._rates[name])
                parameter.copy_(moved if layout is None else layout.from_canonical(moved))

    def release(self) -> None:
        """Charge nothing from now on. Twice is fine."""
        unwatch(self._number)

    def _before_step(self, owned: Set[int], optimizer: Optimizer, closure: bool) -> None:
        for name, parameter in self._reached.items():
            if id(parameter) in owned and parameter.requires_grad:
                refuse_closure(f"the penalty {self._penalty.name}", closure)
                self._rates[name] = rate_of(optimizer, parameter)
                self._add(name, parameter, optimizer)

    def _add(self, name: str, parameter: nn.Parameter, optimizer: Optimizer) -> None:
        penalty, layout = self._penalty.at(self.step + 1), self._layouts.get(name)
        if penalty is None or penalty.term is None:
            return
        with torch.enable_grad():
            turned = parameter if layout is None else layout.to_canonical(parameter)
            price = penalty.every * penalty.term(name, turned)
        charge(price, [parameter], optimizer)

    def _after_step(self, owned: Set[int], optimizer: Optimizer) -> None:
        pass
