"""A pruner of an exchanging method at work on the small network: what every one of them must keep to, at each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from online_cases import MakeOptimizer, after_step, dense_gradient, mlp, seeded, sgd, step, weights
from secateur import Pruner
from secateur.axes import Method
from secateur.masks import Masks


@dataclass
class Turn:
    """One step: its number, the masks before and after, the weights that the optimizer left, the dense gradient."""

    step: int
    before: Masks
    after: Masks
    stepped: dict[str, Tensor]
    dense: dict[str, Tensor]

    @property
    def moved(self) -> bool:
        return self.before != self.after

    def gone(self, name: str) -> Tensor:
        return self.before[name] & ~self.after[name]

    def grown(self, name: str) -> Tensor:
        return self.after[name] & ~self.before[name]


@dataclass
class Watched:
    """A model with its pruner and optimizer."""

    model: nn.Module
    pruner: Pruner
    optimizer: Optimizer

    @staticmethod
    def by(method: Method, *, make: MakeOptimizer = sgd, seed: int = 5) -> Watched:
        model = mlp()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pruner = Pruner(model, method, generator=seeded(seed))
        return Watched(model, pruner, make(model))

    def turns(self, last: int) -> Iterator[Turn]:
        """Train for so many steps, and look at each; what holds for all methods is asserted here."""
        stepped = after_step(self.model, self.optimizer)
        for t in range(1, last + 1):
            before = self.pruner.masks
            dense = dense_gradient(weights(self.model), before, [t])
            step(self.model, self.optimizer, t)
            turn = Turn(t, before, self.pruner.masks, dict(stepped), dense)
            self._check(turn)
            yield turn

    def _check(self, turn: Turn) -> None:
        for name, mask in turn.after.items():
            parameter, grown = self.model.get_parameter(name), turn.grown(name)
            stayed = mask & turn.before[name]
            assert bool((parameter[~mask] == 0).all()), f"a dead weight of {name} is not zero at step {turn.step}"
            assert bool((parameter[grown] == 0).all()), f"{name} does not grow from zero at step {turn.step}"
            assert torch.equal(parameter[stayed], turn.stepped[name][stayed]), f"{name} changed at step {turn.step}"
            for slot in self.optimizer.state[parameter].values():
                if isinstance(slot, Tensor) and slot.shape == parameter.shape and turn.moved:
                    fresh = grown | turn.gone(name)
                    assert bool((slot[fresh] == 0).all()), f"{name} remembers what has moved, at step {turn.step}"
