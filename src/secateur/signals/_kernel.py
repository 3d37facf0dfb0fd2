"""The neural tangent kernel, and weights that keep it: what NTT solves for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.masks import prunable, unwrap
from secateur.measures import Collector, Evidence, Measure, Needs, Params, Probe, at_least_float32, preserved
from secateur.selection import check_density, kept_count, topk_mask
from secateur.signals._weighted import Gathering, outputs_of, trained_with, twice_differentiable, with_weights

__all__ = ["tangent_kernel", "transferred"]


def tangent_kernel(model: nn.Module, first: Any, second: Any) -> Tensor:
    """Θ(x₁, x₂) = J(x₁) J(x₂)ᵀ over all trainable parameters, J = ∂f/∂θ: rows for outputs of x₁, columns for x₂'s.

    Outputs are flattened, sample by sample. In eval mode; the model is left as found. Memory: two Jacobians.

    Args:
        model: f.
        first: x₁, as the model is called.
        second: x₂.

    Source: Jacot, Gabriel & Hongler, arXiv 1806.07572.
    """
    network = unwrap(model)
    params = prunable(network, frozen=True)
    with preserved(network, params, train=False), twice_differentiable():
        weights = {name: tensor.requires_grad_(True) for name, tensor in trained_with(network, params).items()}
        one, two = (_jacobian(network, params, weights, inputs) for inputs in (first, second))
    return one @ two.T


def _jacobian(network: nn.Module, params: Params, weights: Mapping[str, Tensor], inputs: Any) -> Tensor:
    outputs = with_weights(
        network, weights, lambda m: outputs_of(Probe(m, params, (inputs, None), None).run())
    ).flatten()
    rows = []
    for output in outputs:
        grads = torch.autograd.grad(output, list(weights.values()), retain_graph=True, allow_unused=True)
        whole = [torch.zeros_like(w) if g is None else g for w, g in zip(weights.values(), grads, strict=True)]
        rows.append(torch.cat([grad.flatten() for grad in whole]))
    return torch.stack(rows)


@dataclass(frozen=True)
class _Begin:
    keep: float
    rounds: int
    every: int
    rate: float
    kernel: float
    decay: float

    def __call__(self, params: Params) -> Collector:
        return _Transferred(params, self)


class _Transferred(Gathering):
    """Trains the masked student towards the dense teacher's outputs and kernel; labels are not looked at."""

    def __init__(self, params: Params, options: _Begin) -> None:
        super().__init__(params)
        self._options = options

    def compute(self) -> Evidence:
        options, model = self._options, self.probes[0].model
        teacher = trained_with(model, self.params)
        teacher |= {n: at_least_float32(w).clone() for n, w in self.probes[0].weights.items()}
        student = {name: tensor.clone().requires_grad_(True) for name, tensor in teacher.items()}
        teacher = {name: tensor.requires_grad_(True) for name, tensor in teacher.items()}
        optimizer = torch.optim.Adam(list(student.values()), lr=options.rate)
        with twice_differentiable():
            for step in range(0, options.rounds * options.every, options.every):
                bits = self._largest(student)
                for number in range(step, step + options.every):
                    probe = self.probes[number % len(self.probes)]
                    optimizer.zero_grad()
                    masked = {name: w * bits[name] if name in bits else w for name, w in student.items()}
                    loss = self._distance(probe, masked, student, teacher) + self._size(masked)
                    loss.backward(inputs=list(student.values()))
                    optimizer.step()
        return {name: student[name].detach() for name in self.params}

    def _largest(self, student: Mapping[str, Tensor]) -> Evidence:
        found = {}
        for name in self.params:
            weight = student[name].detach()
            keep = kept_count(self._options.keep, weight.numel())
            found[name] = topk_mask({name: weight.abs()}, keep)[name].to(weight.dtype)
        return found

    def _size(self, masked: Mapping[str, Tensor]) -> Tensor:
        squares = torch.stack([masked[name].square().sum() for name in self.params])
        return self._options.decay / self._options.keep * squares.sum()

    def _distance(
        self, probe: Probe, masked: Mapping[str, Tensor], student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
    ) -> Tensor:
        """λ mean (Θ_s − Θ_t)² + mean ‖f_s − f_t‖², the kernels between the batch's halves along a random direction.

        E‖(Θ_s − Θ_t)v‖² = ‖Θ_s − Θ_t‖² for standard normal v, and Θv = J(x₁)(J(x₂)ᵀv) needs no Jacobian.
        """

        def run(weights: Mapping[str, Tensor]) -> Tensor:
            return with_weights(
                probe.model, weights, lambda m: outputs_of(Probe(m, self.params, probe.batch, None).run())
            )

        ours, theirs = run(masked), run(teacher)
        loss = (ours - theirs.detach()).square().flatten(1).sum(1).mean()
        half = len(ours) // 2
        if self._options.kernel == 0 or half == 0:
            return loss
        where = torch.device("cpu") if probe.generator is None else probe.generator.device
        v = torch.randn(ours[half:].shape, generator=probe.generator, device=where).to(ours.device, ours.dtype)
        gap = _along(ours[:half], ours[half:], list(student.values()), v)
        gap = gap - _along(theirs[:half], theirs[half:], list(teacher.values()), v).detach()
        return loss + self._options.kernel * gap.square().mean() / v.numel()


def _along(first: Tensor, second: Tensor, weights: list[Tensor], v: Tensor) -> Tensor:
    """Θ(x₁, x₂) v = J(x₁) J(x₂)ᵀ v, with a graph: a gradient, and a Jacobian times it as the gradient of another."""
    back = torch.autograd.grad(second, weights, v, create_graph=True, allow_unused=True)
    d = torch.zeros_like(first, requires_grad=True)
    along = torch.autograd.grad(first, weights, d, create_graph=True, allow_unused=True)
    pairs = [(a, b) for a, b in zip(along, back, strict=True) if a is not None and b is not None]
    product = sum(((a * b).sum() for a, b in pairs), start=torch.zeros((), dtype=first.dtype, device=first.device))
    return torch.autograd.grad(product, d, create_graph=True)[0]


def transferred(
    *, keep: float, rounds: int = 20, every: int = 100, rate: float = 5e-4, kernel: float = 1e-3, decay: float = 1e-4
) -> Measure:
    """Weights W of a network that is pruned to the largest |W| of each layer and works as the dense one at its start.

    min λ·mean (Θ_s − Θ_t)² + mean ‖f_s − f_t‖² + (λ₂/ρ)‖m ⊙ W‖², by Adam on the dense W with the masked network's
    gradient; the mask m is found anew every `every` of `rounds` × `every` steps. Θ are the tangent kernels between the
    two halves of a batch, along one random direction a step. No label is looked at.

    Args:
        keep: ρ, of each layer.
        rounds: how often the mask is found anew.
        every: steps in between.
        rate: of Adam.
        kernel: λ; 0 leaves the kernel out.
        decay: λ₂; biases do not count.

    Source: Liu & Zenke, "Finding trainable sparse networks through neural tangent transfer", arXiv 2006.08228, §3.
    """
    check_density(keep, name="keep")
    for name, value, least in (("rounds", rounds, 1), ("every", every, 1), ("kernel", kernel, 0), ("decay", decay, 0)):
        if value < least:
            raise SecateurError(f"`{name}` must be at least {least}, got {value}.")
    if not rate > 0:
        raise SecateurError(f"`rate` must be positive, got {rate}.")
    begin = _Begin(keep, rounds, every, rate, kernel, decay)
    return Measure("transferred", begin, needs=Needs.INPUTS, train=False, reduction=None, differentiates=True)
