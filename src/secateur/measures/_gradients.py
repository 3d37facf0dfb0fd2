"""Gradients of the loss with respect to each weight, and the ways to combine them over batches or training steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.measures._measure import Collector, Measure, Memory
from secateur.measures._probe import Params, Probe
from secateur.measures._running import Fold, Running, add


class _Gradients(Running):
    """Σ or moving average of the gradients themselves. One batch costs no copy: autograd's own buffers are kept."""

    def __init__(self, params: Params, by: Fold) -> None:
        super().__init__(params)
        self._by = by

    def update(self, probe: Probe) -> None:
        fresh = probe.grads if self.updates else probe.own_grads()
        self.fold({name: grad.detach() for name, grad in fresh.items()}, by=self._by, own=False)


class _Terms(Running):
    """Σ of a function of each batch's gradient and weight."""

    def __init__(self, params: Params, term: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(params)
        self._term = term

    def update(self, probe: Probe) -> None:
        weights = probe.weights
        self.fold({name: self._term(grad.detach(), weights[name]) for name, grad in probe.grads.items()})


@dataclass(frozen=True)
class _BeginGradients:
    """Starts a collector; a value, so that equal measures are equal."""

    by: Fold

    def __call__(self, params: Params) -> Collector:
        return _Gradients(params, self.by)


@dataclass(frozen=True)
class _BeginTerms:
    term: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, params: Params) -> Collector:
        return _Terms(params, self.term)


@dataclass(frozen=True)
class _MovingAverage:
    decay: float

    def __call__(self, running: Tensor, new: Tensor) -> Tensor:
        return running.mul_(self.decay).add_(new, alpha=1 - self.decay)


def _magnitude(grad: Tensor, weight: Tensor) -> Tensor:
    return grad.abs()


def _square(grad: Tensor, weight: Tensor) -> Tensor:
    return torch.square(grad)


def _towards_larger(grad: Tensor, weight: Tensor) -> Tensor:
    return grad.mul(weight).neg_()


def grad(*, train: bool | None = None, memory: Memory = Memory.STEP) -> Measure:
    """Signed sum of gradients over the batches: g = Σ_b ∂L_b/∂w. One batch is the SNIP paper's single shot.

    During training it is the gradient of the present step, unless `memory` says otherwise.
    """
    return Measure("grad", _BeginGradients(add), train=train, online=memory)


def grad_magnitude(*, train: bool | None = None, memory: Memory = Memory.RUN) -> Measure:
    """Sum of gradient magnitudes over the batches: Σ_b |∂L_b/∂w|. It ranks differently from the signed sum."""
    return Measure("grad_magnitude", _BeginTerms(_magnitude), train=train, online=memory)


def grad_average(*, decay: float = 0.9, train: bool | None = None) -> Measure:
    """Exponential moving average of gradients: g ← `decay`·g + (1 − `decay`)·∂L_b/∂w, starting at the first batch.

    During training it lives from step to step: the momentum by which SNFS (arXiv 1907.04840) grows, but for a factor.
    Source: the SNIP paper suggests it for batches that do not fit in memory (arXiv 1810.02340, §5).
    """
    if not 0 <= decay < 1:
        raise SecateurError(f"`decay` must be in [0, 1), got {decay}.")
    return Measure("grad_average", _BeginGradients(_MovingAverage(decay)), train=train, online=Memory.RUN)


def fisher(*, train: bool | None = None, memory: Memory = Memory.RUN) -> Measure:
    """Sum of squared batch gradients: Σ_b (∂L_b/∂w)².

    With batches of a single sample it is the diagonal of the empirical Fisher matrix, summed over the samples; the
    square of a larger batch's mean gradient is another quantity, and ranks differently.
    """
    return Measure("fisher", _BeginTerms(_square), train=train, online=memory)


def movement(*, train: bool | None = None, memory: Memory = Memory.RUN) -> Measure:
    """How far training moves each weight away from zero: S = −Σ_b w_b·∂L_b/∂w, w_b the weight at that batch.

    Positive where the gradient's step makes the weight larger in magnitude. The learning rate of the paper's scores
    is left out: it does not change the ranking. During training gradient and weight must be seen together, before
    the optimizer moves the weight.
    Source: Sanh, Wolf & Rush, "Movement pruning", NeurIPS 2020, arXiv 2005.07683, §4.
    """
    return Measure("movement", _BeginTerms(_towards_larger), train=train, online=memory)
