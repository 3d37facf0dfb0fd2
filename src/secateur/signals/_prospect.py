"""ProsPr's meta-gradient: what a connection is worth to the loss after some steps of training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.measures import Collector, Evidence, Measure, Params, Probe, loss_of
from secateur.signals._weighted import Gathering, alive_in, trained_with, twice_differentiable, with_weights

__all__ = ["prospect"]


@dataclass(frozen=True)
class _Begin:
    steps: int
    rate: float
    momentum: float
    first_order: bool

    def __call__(self, params: Params) -> Collector:
        return _Prospect(params, self)


class _Prospect(Gathering):
    """Takes M steps on the batches in turn, and differentiates the loss of the next one by the indicators."""

    def __init__(self, params: Params, options: _Begin) -> None:
        super().__init__(params)
        self._options = options

    def compute(self) -> Evidence:
        probe = self.probes[0]
        start, first_order = trained_with(probe.model, self.params), self._options.first_order
        gates = {name: bits.requires_grad_(True) for name, bits in alive_in(probe).items()}
        with twice_differentiable():
            after = self._trained(start, gates)
            loss = self._loss(self._options.steps, after, gates)
            # ∂L/∂c without the curvature of the steps: θ_M is θ_0 plus gradients by θ, each of which has one factor c.
            wanted = {name: after[name] if first_order else gates[name] for name in gates}
            found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        grads = {name: grad for name, grad in zip(gates, found, strict=True) if grad is not None}
        if not first_order:
            return {name: grad.detach() for name, grad in grads.items()}
        return {name: grad.detach() * (2 * after[name] - start[name]).detach() for name, grad in grads.items()}

    def _trained(self, start: dict[str, Tensor], gates: Evidence) -> dict[str, Tensor]:
        """θ_M, with its graph to the indicators unless that is left out."""
        options, values = self._options, {name: tensor.requires_grad_(True) for name, tensor in start.items()}
        speed: dict[str, Tensor] = {}
        for step in range(options.steps):
            loss = self._loss(step, values, gates)
            full = not options.first_order
            grads = torch.autograd.grad(loss, list(values.values()), create_graph=full, allow_unused=True)
            moved = {}
            for (name, value), grad in zip(values.items(), grads, strict=True):
                if grad is not None:
                    speed[name] = options.momentum * speed[name] + grad if name in speed else grad
                moved[name] = value - options.rate * speed[name] if name in speed else value
            values = moved if full else {name: value.detach().requires_grad_(True) for name, value in moved.items()}
        return values

    def _loss(self, step: int, values: dict[str, Tensor], gates: Evidence) -> Tensor:
        probe: Probe = self.probes[step % len(self.probes)]
        held = {name: value * gates[name] if name in gates else value for name, value in values.items()}
        return with_weights(probe.model, held, partial(loss_of, batch=probe.batch, loss=probe.loss))


def prospect(
    *, steps: int = 3, rate: float = 0.1, momentum: float = 0.0, first_order: bool = False, train: bool | None = None
) -> Measure:
    """∂L(c ⊙ θ_M)/∂c at c = 1, through the M steps θ_{i+1} = θ_i − η∇_θ L(c ⊙ θ_i) that led from θ_0 to θ_M.

    The steps take the batches in turn, and the last loss is of the batch after theirs; with one batch all are the same.
    With `steps=0` it is w ∂L/∂w. Memory: M graphs of the loss; without the second derivatives (`first_order`) one.

    Args:
        steps: M.
        rate: η.
        momentum: of the inner steps, v ← μv + g.
        first_order: leave out how ∇L(c ⊙ θ_i) changes with θ and c, the Hessians of the steps.
        train: mode of the model while measuring.

    Source: Alizadeh et al., "Prospect pruning", arXiv 2202.08132, §3.
    """
    if steps < 0:
        raise SecateurError(f"`steps` of a prospect must be 0 or more, got {steps}.")
    if not rate > 0:
        raise SecateurError(f"`rate` must be positive, got {rate}.")
    return Measure("prospect", _Begin(steps, rate, momentum, first_order), train=train)
