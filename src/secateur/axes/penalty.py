"""Penalties: what a method adds to the loss while a network trains, so that weights go to zero by themselves.

A penalty is a loss term, whose gradient joins the gradients just before the optimizer's step, or a proximal step that
follows it and makes exact zeros, or both. A `Pruner` sees to either until the last milestone of the method's schedule;
then the method's score says what goes, and what stays trains on without it. The training loop does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.measures import from_first_rank, reduced

#: (name, weight) → the price of one tensor, as a scalar with its graph, strength included. Weights come as
#: `[out, in, ...]`, however they are stored.
Term = Callable[[str, Tensor], Tensor]

#: (name, weight, learning rate) → the weight after the proximal step.
Prox = Callable[[str, Tensor, float], Tensor]

#: (network, prunable parameters) → the parameters that pay, by name.
Reach = Callable[[nn.Module, Mapping[str, nn.Parameter]], Mapping[str, nn.Parameter]]


def prunable_ones(network: nn.Module, params: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
    """All prunable parameters pay: the reach of a penalty that names none."""
    return params


@dataclass(frozen=True)
class Penalty:
    """A price on parameters.

    Attributes:
        name: as printed.
        term: the price; None where only the proximal step acts.
        prox: what the price's proximal operator makes of a weight after a step; None where only the term acts.
        reach: which parameters pay; all prunable ones by default. It may refuse a network (`UnfitModelError`).
        every: it acts at every so many steps of the optimizer, and is then so many times as strong: what it costs in
            the long run does not depend on `every`.
        later: (step, penalty): after this step of the optimizer the other one stands in its place, with the same reach.
    """

    name: str
    term: Term | None = None
    prox: Prox | None = None
    reach: Reach = prunable_ones
    every: int = 1
    later: tuple[int, Penalty] | None = None

    def __post_init__(self) -> None:
        if self.term is None and self.prox is None:
            raise SecateurError(f"penalty {self.name!r} has neither a `term` nor a `prox`: it would do nothing.")
        if self.every < 1:
            raise SecateurError(f"`every` must be at least 1 optimizer step, got {self.every}.")

    def at(self, step: int) -> Penalty | None:
        """The penalty that acts at optimizer step number `step`, counted from 1; None where nothing does."""
        if self.later is not None and step > self.later[0]:
            return self.later[1].at(step)
        return self if step % self.every == 0 else None


@dataclass(frozen=True)
class SoftThreshold:
    """w ← sign(w)·max(|w| − ηλ, 0): the proximal operator of λ‖w‖₁."""

    strength: float

    def __call__(self, name: str, weight: Tensor, lr: float) -> Tensor:
        return weight.sign() * (weight.abs() - lr * self.strength).clamp(min=0)


def l1(strength: float) -> Penalty:
    """λ‖w‖₁ as a proximal step of threshold ηλ after each step of the optimizer, whose learning rate is η.

    >>> float(l1(0.5).prox("w", torch.tensor([0.3]), 0.1))
    0.25
    """
    check_strength(strength)
    return Penalty(f"l1({strength:g})", prox=SoftThreshold(strength))


@dataclass(frozen=True)
class Langevin:
    """α Σ|w| + σ Σ ν·w with ν ~ N(0, 1): its gradient is a drift towards zero and white noise, new at every step."""

    strength: float
    noise: float

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        drawn = reduced({name: torch.randn_like(weight)}, from_first_rank)[name]  # the same on all ranks
        return self.strength * weight.abs().sum() + self.noise * (drawn * weight).sum()


def langevin(strength: float, noise: float) -> Penalty:
    """A random walk on top of the gradient's steps: −ηα·sign(w) + ησν after a step of SGD with learning rate η.

    That is Langevin dynamics at temperature T = ησ²/2. ν comes from torch's global generator, as dropout's noise does.

    >>> langevin(0.1, 0.5).name
    'langevin(0.1, 0.5)'
    """
    check_strength(strength)
    check_strength(noise, "noise")
    return Penalty(f"langevin({strength:g}, {noise:g})", term=Langevin(strength, noise))


def check_strength(strength: float, name: str = "strength") -> None:
    """Refuse a negative price, and one that is no number."""
    if not 0 <= strength < torch.inf:
        raise SecateurError(f"`{name}` must be at least 0 and finite, got {strength}.")
