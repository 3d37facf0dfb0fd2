"""Optimal brain surgeon on a whole small network: one matrix of all weights, in which each removal is made up for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError, UnfitModelError
from secateur.axes import Moment
from secateur.masks import Masks
from secateur.measures import (
    Evidence,
    Level,
    Measure,
    Needs,
    Params,
    Probe,
    Running,
    all_sum,
    cross_entropy,
    logits_of,
    loss_of,
    reduced,
)
from secateur.repairs._choice import levels_of
from secateur.repairs._exact import exact_removal
from secateur.repairs._second_moments import damped, least_squares
from secateur.repairs._solve import told
from secateur.selection import kept_count

_WHOLE = "all weights"


@dataclass(frozen=True)
class _Begin:
    """Begins a collector; two alike are equal, as measures are."""

    most: int
    density: float | None = None
    damping: float = 0.0

    def __call__(self, params: Params) -> _GaussNewton:
        if self.density is None:
            return _GaussNewton(params, self.most)
        return _Surgery(params, self.most, self.density, self.damping)


class _GaussNewton(Running):
    """H = Σ_b Jᵀ (∂²L_b/∂z²) J over all weights, z the outputs: rows of it for each parameter."""

    def __init__(self, params: Params, most: int) -> None:
        super().__init__(params)
        self._count = sum(parameter.numel() for parameter in params.values())
        if self._count > most:
            raise UnfitModelError(
                f"OBS solves one system of all weights, and this network has {self._count}, more than `most`={most}: a "
                "matrix of that size squared. Take obc or l_obs, which solve layer by layer, or narrow it with `only=`."
            )

    def update(self, probe: Probe) -> None:
        outputs, curvature = _outputs(probe)
        jacobian = torch.stack([self._row(output) for output in outputs.flatten()])
        self.fold({_WHOLE: jacobian.T @ (curvature @ jacobian)})

    def _row(self, output: Tensor) -> Tensor:
        """∂z/∂w of one output, over all weights."""
        weights = list(self.params.values())
        found = torch.autograd.grad(output, weights, retain_graph=True, allow_unused=True)
        grads = [torch.zeros_like(w) if grad is None else grad for w, grad in zip(weights, found, strict=True)]
        return torch.cat([grad.flatten().double() for grad in grads])

    def compute(self) -> Evidence:
        whole = self.running[_WHOLE]
        sizes = [parameter.numel() for parameter in self.params.values()]
        return dict(zip(self.params, whole.split(sizes), strict=True))


class _Surgery(_GaussNewton):
    """The level at which each weight goes, when the cheapest of all always goes next."""

    def __init__(self, params: Params, most: int, density: float, damping: float) -> None:
        super().__init__(params, most)
        self._density, self._damping = density, damping

    def compute(self) -> Evidence:
        whole = reduced({_WHOLE: self.running[_WHOLE]}, all_sum)[_WHOLE]
        moments, dead = damped(whole, self._damping)
        row = torch.cat([parameter.detach().flatten() for parameter in self.params.values()])[None]
        row = row.masked_fill(dead, 0)
        cut = row.numel() - kept_count(self._density, row.numel())
        left, kept, trace = exact_removal(row, moments, cut)
        found = levels_of(trace, kept, left.double().square() * moments.diagonal())[0]
        parts = found.split([parameter.numel() for parameter in self.params.values()])
        return {name: part.reshape(self.params[name].shape) for name, part in zip(self.params, parts, strict=True)}


def _outputs(probe: Probe) -> tuple[Tensor, Tensor]:
    """The model's outputs on a batch, with their graph, and ∂²L/∂z² of the loss as a function of them."""
    seen: list[tuple[Tensor, Any]] = []
    loss = probe.loss or (lambda output, target: cross_entropy(logits_of(output), target))

    def noted(output: Any, target: Any) -> Tensor:
        if not isinstance(output, Tensor) and probe.loss is not None:
            raise SecateurError(
                f"OBS differentiates the loss by one tensor of outputs, and the model returns a "
                f"{type(output).__name__}: let it return a tensor, or use the default loss of its logits."
            )
        seen.append((logits_of(output), target))
        return loss(output, target)

    loss_of(probe.model, probe.batch or (None, None), noted)
    outputs, target = seen[0]
    point = outputs.detach().double()
    curvature = torch.autograd.functional.hessian(lambda z: loss(z.reshape(point.shape), target), point.flatten())
    assert isinstance(curvature, Tensor)  # of one tensor it is one
    return outputs, curvature


def gauss_newton(*, most: int = 1024) -> Measure:
    """H = Σ_b Jᵀ (∂²L_b/∂z²) J over all prunable weights, with z the outputs and J = ∂z/∂w: the whole matrix.

    Of each parameter its own rows, (numel, n) for n weights altogether, in the order of the parameters; float64. Where
    the outputs are linear in the weights it is the Hessian. One backward pass per output of each batch, and n² numbers.

    Args:
        most: the largest n that is not refused.

    Source: for squared errors Hassibi & Stork, NIPS 1992, eq. 7 (the outer products of ∂z/∂w).
    """
    return Measure("gauss_newton", _Begin(most), needs=Needs.LABELS, level=Level.LAYER)


def surgery(density: float, *, damping: float = 1e-6, most: int = 1024) -> Measure:
    """The level at which each weight goes when always the cheapest of all goes next and all others make up for it.

    L_q = w_q²/(2[H⁻¹]_qq), δw = −(w_q/[H⁻¹]_qq)·H⁻¹e_q, H⁻¹ forgets q; H is `gauss_newton`, damped. A weight's level is
    the highest L among its removal and those before it; what is left at `density` has more than any.

    Args:
        density: how far it goes.
        damping: α as a share of the mean of the diagonal of H.
        most: the most weights that are not refused.
    """
    return Measure("surgery", _Begin(most, density, damping), needs=Needs.LABELS, reduction=None)


@dataclass(frozen=True)
class Surgeon:
    """Give all survivors of a small network the values at the constrained minimum (see `surgeon`)."""

    damping: float
    most: int
    always: bool = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The whole curvature."""
        return (gauss_newton(most=self.most),)

    @torch.no_grad()
    def __call__(self, model: nn.Module, masks: Masks, moment: Moment) -> None:
        """Write the survivors."""
        names, own = list(moment.params), moment.evidence["gauss_newton"]
        moments, dead = told(_WHOLE, damped, torch.cat([own[name] for name in names]), self.damping)
        living = {name: p * moment.alive[name].to(p.device) for name, p in moment.params.items()}
        row = torch.cat([living[name].flatten() for name in names])[None]
        keep = torch.cat([masks[n].flatten() for n in names])[None].to(row.device)
        found = torch.where(dead, row, told(_WHOLE, least_squares, row, keep, moments))[0]
        for name, part in zip(names, found.split([moment.params[n].numel() for n in names]), strict=True):
            moment.params[name].copy_(part.reshape(moment.params[name].shape))


def surgeon(*, damping: float = 1e-6, most: int = 1024) -> Surgeon:
    """Move all weights that stay to where the loss is lowest, to second order, without those that go.

    w′_S = w_S − [H⁻¹]_SP([H⁻¹]_PP)⁻¹w_P with H = `gauss_newton` + αI: the rise is ½ w_Pᵀ([H⁻¹]_PP)⁻¹w_P.

    Args:
        damping: α as a share of the mean of the diagonal of H.
        most: the most weights that are not refused.

    Source: Hassibi & Stork, "Second order derivatives for network pruning: optimal brain surgeon", NIPS 1992, eq. 5.
    """
    return Surgeon(damping, most)
