"""Curvature of the loss, by differentiating twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur._base.errors import SecateurError
from secateur.measures._measure import Collector, Measure
from secateur.measures._probe import Evidence, Params, Probe, at_least_float32
from secateur.measures._reduction import all_sum, reduced
from secateur.measures._running import Running


class _HessianGrad(Running):
    """First pass over the batches: g = Σ_b ∇L_b. Second pass: Σ_b ∇⟨g, ∇L_b⟩ = (Σ_b H_b) g, g held constant."""

    passes = 2

    def __init__(self, params: Params, temperature: float) -> None:
        super().__init__(params)
        self._temperature = temperature
        self._grad = Running(params)
        self._direction: Evidence | None = None

    def update(self, probe: Probe) -> None:
        if probe.pass_ == 0:
            self._grad.fold(probe.differentiate(probe.evaluate(temperature=self._temperature)), own=False)
            return
        if self._direction is None:  # the gradient of all ranks' batches, before it is multiplied by this rank's H
            self._direction = reduced(self._grad.compute(), all_sum)
        with _twice_differentiable():
            grads = probe.differentiate(probe.evaluate(temperature=self._temperature), create_graph=True)
            self.fold(_hessian_times(self._direction, grads, probe), own=False)


class _HessianDiagonal(Running):
    """Σ_b (1/K) Σ_k v_k ⊙ H_b v_k, every v of random signs."""

    def __init__(self, params: Params, samples: int, dtype: torch.dtype | None) -> None:
        super().__init__(params)
        self._samples = samples
        self._dtype = dtype

    def update(self, probe: Probe) -> None:
        mean: Evidence = {}
        with _twice_differentiable():
            grads = probe.differentiate(probe.evaluate(), create_graph=True)
            for sample in range(self._samples):
                signs = {name: _signs(grad, probe.generator) for name, grad in grads.items()}
                products = _hessian_times(signs, grads, probe, keep=sample + 1 < self._samples)
                for name, product in products.items():
                    term = (product * signs[name]).to(self._dtype or product.dtype).div_(self._samples)
                    mean[name] = mean[name].add_(term) if name in mean else term
        self.fold(mean)


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """The fused attention and cuDNN recurrent kernels cannot be differentiated twice; the plain ones can."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield


def _hessian_times(
    direction: Mapping[str, Tensor], grads: Mapping[str, Tensor], probe: Probe, *, keep: bool = False
) -> Evidence:
    """∂⟨v, g⟩/∂w for every tensor that has a gradient; zeros where that gradient does not depend on the weights."""
    along = sum(((direction[name] * grad).sum() for name, grad in grads.items()), start=torch.zeros(()))
    found: Mapping[str, Tensor] = {}
    if isinstance(along, Tensor) and along.requires_grad:
        tensors = list(probe.params.values())
        products = torch.autograd.grad(along, tensors, allow_unused=True, retain_graph=keep)
        found = {
            name: at_least_float32(product.detach())
            for name, product in zip(probe.params, products, strict=True)
            if product is not None
        }
    return {name: found[name] if name in found else torch.zeros_like(grad) for name, grad in grads.items()}


def _signs(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """+1 or −1 with equal chance, drawn on the generator's device so that every device sees the same numbers."""
    where = generator.device if generator is not None else torch.device("cpu")
    bits = torch.randint(0, 2, like.shape, generator=generator, device=where)
    return (2 * bits - 1).to(like.device, like.dtype)


@dataclass(frozen=True)
class _BeginGrad:
    temperature: float

    def __call__(self, params: Params) -> Collector:
        return _HessianGrad(params, self.temperature)


@dataclass(frozen=True)
class _BeginDiagonal:
    samples: int
    dtype: torch.dtype | None

    def __call__(self, params: Params) -> Collector:
        return _HessianDiagonal(params, self.samples, self.dtype)


def hessian_grad(*, temperature: float = 1.0, train: bool | None = None) -> Measure:
    """Hessian times gradient, H g: how the gradient changes along itself.

    With the batches b, g = Σ_b ∇L_b and H = Σ_b ∇²L_b, both of the loss with logits divided by `temperature`.
    The batches are seen twice. Source: GraSP, arXiv 2002.07376, eq. 7.
    """
    if temperature <= 0:
        raise SecateurError(f"`temperature` must be positive, got {temperature}.")
    return Measure("hessian_grad", _BeginGrad(temperature), train=train)


def hessian_diag(*, samples: int = 1, dtype: torch.dtype | None = None, train: bool | None = None) -> Measure:
    """Diagonal of the Hessian, h_k = ∂²L/∂w_k², estimated with random signs: E[v ⊙ H v] = diag H, H = Σ_b ∇²L_b.

    The mean over `samples` draws of v ∈ {−1, +1}^n per batch; exact with one draw where H is diagonal. The variance of
    an entry is Σ_{j≠k} H_kj² / `samples`, so an estimate may be negative where h_k is small. It needs batches of its
    own, also during training: a step's gradients do not tell curvature. In a network that is piecewise linear in each
    weight (ReLU) h is the Gauss-Newton diagonal; the Fisher diagonal is another quantity.

    Args:
        samples: draws of v per batch; each costs about two more backward passes.
        dtype: of the sums; None: the weight's own.
        train: mode of the model while measuring.

    Source: Hutchinson, 1990; Bekas, Kokiopoulou & Saad, 2007, for the diagonal.
    """
    if samples < 1:
        raise SecateurError(f"`samples` must be at least 1, got {samples}.")
    return Measure("hessian_diag", _BeginDiagonal(samples, dtype), train=train)
