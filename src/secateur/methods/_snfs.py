"""SNFS: sparse networks from scratch; weights move to the layers, and the places, where momentum is largest."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.regrow import by_growth, cosine, drop_and_grow, spared
from secateur.axes.schedule import exchanges
from secateur.axes.structure import weights
from secateur.measures import grad_average


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def growth(momentum: Tensor) -> Tensor:
    return momentum.abs()


def at_random(noise: Tensor) -> Tensor:
    return noise


def snfs(
    density: float,
    *,
    until: int,
    every: int = 500,
    fraction: float = 0.5,
    decay: float = 0.9,
    quota: Scope | None = None,
) -> Method:
    """Train a sparse network that moves its weights to where the dense gradient has been large for some time.

    Starts at random. Every ΔT steps each layer drops the fraction f(t) of its smallest |w|; of the D dropped in all,
    layer l gets D·μ_l/Σ μ, μ_l the mean |M| of its living weights, and grows them where |M| is largest, from zero. M
    is the momentum of all weights, f(t) = α' + (α − α')/2·(1 + cos(πt/T)), α' = 0.005.

    Args:
        density: the fraction that stays, throughout, of all layers together.
        until: T, the step from which the network is left alone; the paper takes all of training.
        every: ΔT; the paper takes an epoch.
        fraction: α; 0.5 in the authors' code (0.2 in the paper, from memory).
        decay: of the momentum, M ← decay·M + (1 − decay)·∂L/∂w.
        quota: how many weights each layer begins with; `scope.layerwise()` by default.

    Family: during training.
    Source: Dettmers & Zettlemoyer, arXiv 1907.04840, §3, and the authors' code.
    Deviates: M is an average of the dense gradients of its own, kept in float32 at least, whatever the optimizer;
    that is SGD's momentum but for a factor and weight decay, and not Adam's m/√v, which the authors take there. As in
    their code a nearly dense layer that grows drops no more than its sparsity, and growth takes at most 99 % of a
    layer's free places.
    """
    average = measured(growth, {"momentum": grad_average(decay=decay)})
    return method(
        "snfs",
        score,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=exchanges(density, every=every, until=until),
        regrow=drop_and_grow(
            average,
            start=measured(at_random),
            quota=quota or scope.layerwise(),
            leave=spared(cosine(fraction, until=until, end=0.005)),
            share=by_growth(),
        ),
    )
