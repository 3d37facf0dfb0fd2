"""Gradients of the loss with respect to each weight, and the ways to combine them over several batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.measures._measure import Collector, Evidence, Measure, Params, Probe

#: (running value, new gradient) → new running value, in the running value's buffer.
Accumulate = Callable[[Tensor, Tensor], Tensor]


class _Gradients:
    """Σ or moving average of the gradients themselves. One batch costs no copy: autograd's own buffers are kept."""

    passes = 1

    def __init__(self, accumulate: Accumulate) -> None:
        self._accumulate = accumulate
        self._running: Evidence = {}

    def update(self, probe: Probe) -> None:
        if not self._running:
            self._running = {name: grad.detach() for name, grad in probe.own_grads().items()}
            return
        for name, grad in probe.grads.items():
            self._running[name] = self._accumulate(self._running[name], grad.detach())

    def compute(self) -> Evidence:
        evidence, self._running = self._running, {}
        return evidence


class _Powers:
    """Σ of a non-negative function of each batch gradient."""

    passes = 1

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._running: Evidence = {}

    def update(self, probe: Probe) -> None:
        for name, grad in probe.grads.items():
            fresh = self._function(grad.detach())
            self._running[name] = self._running[name].add_(fresh) if name in self._running else fresh

    def compute(self) -> Evidence:
        evidence, self._running = self._running, {}
        return evidence


@dataclass(frozen=True)
class _BeginGradients:
    """Starts a collector; a value, so that equal measures are equal."""

    accumulate: Accumulate

    def __call__(self, params: Params) -> Collector:
        return _Gradients(self.accumulate)


@dataclass(frozen=True)
class _BeginPowers:
    function: Callable[[Tensor], Tensor]

    def __call__(self, params: Params) -> Collector:
        return _Powers(self.function)


@dataclass(frozen=True)
class _MovingAverage:
    decay: float

    def __call__(self, running: Tensor, new: Tensor) -> Tensor:
        return running.mul_(self.decay).add_(new, alpha=1 - self.decay)


def _sum(running: Tensor, new: Tensor) -> Tensor:
    return running.add_(new)


def grad(*, train: bool | None = None) -> Measure:
    """Signed sum of gradients over the batches: g = Σ_b ∂L_b/∂w. One batch is the SNIP paper's single shot."""
    return Measure("grad", _BeginGradients(_sum), train=train, online=True)


def grad_magnitude(*, train: bool | None = None) -> Measure:
    """Sum of gradient magnitudes over the batches: Σ_b |∂L_b/∂w|. It ranks differently from the signed sum."""
    return Measure("grad_magnitude", _BeginPowers(torch.abs), train=train, online=True)


def grad_average(*, decay: float = 0.9, train: bool | None = None) -> Measure:
    """Exponential moving average of gradients: g ← `decay`·g + (1 − `decay`)·∂L_b/∂w, starting at the first batch.

    Source: the SNIP paper suggests it for batches that do not fit in memory (arXiv 1810.02340, §5).
    """
    if not 0 <= decay < 1:
        raise SecateurError(f"`decay` must be in [0, 1), got {decay}.")
    return Measure("grad_average", _BeginGradients(_MovingAverage(decay)), train=train, online=True)


def fisher(*, train: bool | None = None) -> Measure:
    """Sum of squared batch gradients: Σ_b (∂L_b/∂w)², the diagonal of the empirical Fisher matrix per batch."""
    return Measure("fisher", _BeginPowers(torch.square), train=train, online=True)
