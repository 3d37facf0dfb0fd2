"""NTK-SAP's spectrum proxy: how much outputs change when weights do, whatever the weights and the data are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.measures import (
    Collector,
    Evidence,
    Measure,
    Needs,
    Params,
    Probe,
    Running,
    at_least_float32,
    from_first_rank,
)
from secateur.signals._weighted import alive_in, outputs_of, with_weights

__all__ = ["kernel_change"]


@dataclass(frozen=True)
class _Begin:
    epsilon: float
    resamples: int

    def __call__(self, params: Params) -> Collector:
        return _KernelChange(params, self)


class _KernelChange(Running):
    def __init__(self, params: Params, options: _Begin) -> None:
        super().__init__(params)
        self._options = options

    def update(self, probe: Probe) -> None:
        alive, where = alive_in(probe), torch.device("cpu") if probe.generator is None else probe.generator.device

        def normal(like: Tensor) -> Tensor:
            drawn = torch.randn(like.shape, generator=probe.generator, device=where)
            return drawn.to(like.device, like.dtype)

        for _ in range(self._options.resamples):
            inputs = _noise(probe.inputs, normal)
            weights = {n: self._redrawn(at_least_float32(w), probe) for n, w in probe.weights.items()}
            self.fold(self._change(probe, inputs, weights, alive, normal))

    def _change(
        self, probe: Probe, inputs: Any, weights: Evidence, alive: Evidence, normal: Callable[[Tensor], Tensor]
    ) -> Evidence:
        """Σ_j m_j ∂/∂m_j of ‖f(θ⊙m) − f((θ + εδ)⊙m)‖², both branches."""
        near = {name: (weight * alive[name]).requires_grad_(True) for name, weight in weights.items()}
        moved = {name: weight + self._options.epsilon * normal(weight) for name, weight in weights.items()}
        far = {name: (weight * alive[name]).requires_grad_(True) for name, weight in moved.items()}

        def run(model: nn.Module) -> Tensor:
            return outputs_of(Probe(model, self.params, (inputs, None), None).run())

        with _statistics_of(probe.model, lambda: with_weights(probe.model, near, run)):
            change = (with_weights(probe.model, near, run) - with_weights(probe.model, far, run)).square().sum()
        leaves = [*near.values(), *far.values()]
        found = torch.autograd.grad(change, leaves, allow_unused=True)
        pairs = zip(near, found[: len(near)], found[len(near) :], strict=True)
        return {n: weights[n] * one + moved[n] * two for n, one, two in pairs if one is not None and two is not None}

    def _redrawn(self, weight: Tensor, probe: Probe) -> Tensor:
        where = torch.device("cpu") if probe.generator is None else probe.generator.device
        order = torch.randperm(weight.numel(), generator=probe.generator, device=where)
        return weight.detach().flatten()[order.to(weight.device)].reshape(weight.shape)


def _noise(inputs: Any, normal: Callable[[Tensor], Tensor]) -> Any:
    """Standard normal numbers in the place of real ones; token ids stay as they are."""
    if isinstance(inputs, Tensor):
        return normal(inputs) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {key: _noise(value, normal) for key, value in inputs.items() if key != "labels"}
    return tuple(_noise(value, normal) for value in inputs) if isinstance(inputs, tuple | list) else inputs


@contextmanager
def _statistics_of(model: nn.Module, forward: Callable[[], object]) -> Iterator[None]:
    """Give batch norms the statistics of one forward, then let them use those, as in eval mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.momentum = True, 1.0
        if norms:
            with torch.no_grad():
                forward()
        for norm in norms:
            norm.training = False
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def kernel_change(*, epsilon: float = 0.01, resamples: int = 1) -> Measure:
    """Σ_r m ∂/∂m ‖f(x; θ_r ⊙ m) − f(x; (θ_r + εδ_r) ⊙ m)‖² at the present masks m: a proxy of the NTK's trace.

    x and δ are standard normal, and θ_r is another draw of the weights in each sample r: a permutation of each
    tensor's own values. No data value and no label is used. Batch norms take the statistics of x. It goes as ε².

    Args:
        epsilon: ε.
        resamples: how many draws of x, θ and δ; the authors take 5 on CIFAR-10.

    Source: Wang, Li & Sun, "NTK-SAP", ICLR 2023, arXiv 2304.02840, eq. 8 and Algorithm 1.
    """
    if not epsilon > 0:
        raise SecateurError(f"`epsilon` must be positive, got {epsilon}.")
    if resamples < 1:
        raise SecateurError(f"`resamples` must be at least 1, got {resamples}.")
    begin = _Begin(epsilon, resamples)
    return Measure(
        "kernel_change", begin, needs=Needs.SHAPES, train=False, reduction=from_first_rank, differentiates=True
    )
