"""What the loss owes to each weight on its way through training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.measures import Evidence, Measure, Memory, Params, Probe, State, all_mean

__all__ = ["path_sensitivity"]

_PARTS = ("sum", "first", "last", "slope")


class _Path:
    """Σ_t ∂L/∂w(t) · (w(t + 1) − w(t)), with the weights of the beginning and of the step before."""

    passes = 1

    def __init__(self, params: Params) -> None:
        self.params = params
        self._kept: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}

    def update(self, probe: Probe) -> None:
        """Take in one training step, before the optimizer's."""
        if probe.given_grads is None:
            raise SecateurError(
                "path_sensitivity is gathered from the steps of training, and needs no batches: write "
                "pruner = Pruner(model, method) before your training loop, without `batches`."
            )
        self._catch_up()
        for name, grad in probe.grads.items():
            weight = self.params[name].detach().clone()
            self._kept["first"].setdefault(name, weight)
            self._kept["last"][name], self._kept["slope"][name] = weight, grad.detach().clone()

    def _catch_up(self) -> None:
        """Add the step that the optimizer has taken since the last gradient was seen."""
        total, last = self._kept["sum"], self._kept["last"]
        for name, slope in self._kept["slope"].items():
            moved = self.params[name].detach() - last[name]
            term = slope.double() * moved
            total[name] = total[name] + term if name in total else term
            last[name] = self.params[name].detach().clone()
        self._kept["slope"] = {}

    def compute(self) -> Evidence:
        """Return S as it stands."""
        self._catch_up()
        found = {}
        for name, total in self._kept["sum"].items():
            now, first = self.params[name].detach().double(), self._kept["first"][name].double()
            moved = now - first
            found[name] = torch.where(moved == 0, 0.0, -total * now / torch.where(moved == 0, 1.0, moved))
        return found

    def reset(self) -> None:
        """Forget everything seen so far."""
        self._kept = {part: {} for part in _PARTS}

    def state_dict(self) -> State:
        """Return sums and weights by the name of the part and of the parameter."""
        return {f"{part}.{name}": tensor for part, kept in self._kept.items() for name, tensor in kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor | int | float]) -> None:
        """Go on from a `state_dict`."""
        self.reset()
        for key, value in state.items():
            part, _, name = key.partition(".")
            if part not in _PARTS or name not in self.params or not isinstance(value, Tensor):
                raise SecateurError(f"A path's state has {', '.join(_PARTS)} of this model's parameters, got {key!r}.")
            self._kept[part][name] = value.to(self.params[name].device)


def path_sensitivity() -> Measure:
    """S = −Σ_t (∂L/∂w)(t) · (w(t+1) − w(t)) · w/(w − w(0)): how much the loss would rise at w = 0, by training's way.

    The mean slope of the loss between w(0) and w stands for that between 0 and w. Δw is what the optimizer did,
    whichever it was. A weight that has not moved is worth 0. Gathered while a `Pruner` watches training, from the first
    step on; three tensors like each weight, and a sum in float64.
    Source: Karnin, "A simple procedure for pruning back-propagation trained neural networks", IEEE Transactions on
    Neural Networks 1, 1990, eq. 9.
    """
    return Measure("path_sensitivity", _Path, reduction=all_mean, online=Memory.RUN, offline=False)
