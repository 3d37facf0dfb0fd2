"""Curvature along the gradient, by differentiating twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur._base.errors import SecateurError
from secateur.measures._measure import Collector, Evidence, Measure, Params, Probe, all_sum, reduced


class _HessianGrad:
    """First pass over the batches: g = Σ_b ∇L_b. Second pass: Σ_b ∇⟨g, ∇L_b⟩ = (Σ_b H_b) g, g held constant."""

    passes = 2

    def __init__(self, params: Params, temperature: float) -> None:
        self._params = params
        self._temperature = temperature
        self._grad: list[Tensor] = []
        self._product: list[Tensor] = []

    def update(self, probe: Probe) -> None:
        if probe.pass_ == 0:
            grads = self._gradient(probe, create_graph=False)
            self._grad = _add(self._grad, grads)
            return
        if not self._product:  # the gradient of all ranks' batches, before it is multiplied by this rank's H
            reduced(dict(zip(self._params, self._grad, strict=True)), all_sum)
        # The fused attention and cuDNN recurrent kernels cannot be differentiated twice; the plain ones can.
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            grads = self._gradient(probe, create_graph=True)
            along = sum(((g * h).sum() for g, h in zip(self._grad, grads, strict=True)), start=torch.zeros(()))
            if not isinstance(along, Tensor) or not along.requires_grad:
                self._product = _add(self._product, [torch.zeros_like(p) for p in self._params.values()])
                return
            product = torch.autograd.grad(along, list(self._params.values()), allow_unused=True)
        self._product = _add(self._product, _filled(product, self._params))

    def _gradient(self, probe: Probe, *, create_graph: bool) -> list[Tensor]:
        tensors = list(self._params.values())
        loss = probe.evaluate(temperature=self._temperature)
        found = torch.autograd.grad(loss, tensors, create_graph=create_graph, allow_unused=True)
        return _filled(found, self._params)

    def compute(self) -> Evidence:
        return dict(zip(self._params, self._product, strict=True))


def _filled(found: Sequence[Tensor | None], params: Params) -> list[Tensor]:
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, params.values(), strict=True)]


def _add(running: list[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    if not running:
        return [tensor.detach() for tensor in new]
    return [old.add_(tensor.detach()) for old, tensor in zip(running, new, strict=True)]


@dataclass(frozen=True)
class _Begin:
    temperature: float

    def __call__(self, params: Params) -> Collector:
        return _HessianGrad(params, self.temperature)


def hessian_grad(*, temperature: float = 1.0, train: bool | None = None) -> Measure:
    """Hessian times gradient, H g: how the gradient changes along itself.

    With the batches b, g = Σ_b ∇L_b and H = Σ_b ∇²L_b, both of the loss with logits divided by `temperature`.
    The batches are seen twice. Source: GraSP, arXiv 2002.07376, eq. 7.
    """
    if temperature <= 0:
        raise SecateurError(f"`temperature` must be positive, got {temperature}.")
    return Measure("hessian_grad", _Begin(temperature), train=train)
