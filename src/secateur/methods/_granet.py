"""GraNet: gradual pruning with neuroregeneration; the network thins out, and at each cut regrows what it needs."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.regrow import cosine, drop_and_grow
from secateur.axes.schedule import gradual
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def growth(grad: Tensor) -> Tensor:
    return grad.abs()


def at_random(noise: Tensor) -> Tensor:
    return noise


def granet(
    density: float,
    *,
    end: int,
    until: int,
    every: int = 1000,
    initial: float = 1.0,
    fraction: float = 0.5,
    quota: Scope | None = None,
) -> Method:
    """Prune gradually, all layers in one ranking, and right after each cut exchange the weakest that are left.

    Every ΔT steps: the κ_t = ⌊ρ_t N + ½⌋ largest |w| of those alive stay, 1 − ρ_t = s_i + (s_f − s_i)(1 − (1 −
    t/t_f)³); then each layer l drops the ⌊r(t)·n_l⌋ smallest |w| of what it has and grows as many of the largest
    |∂L/∂w|, from zero, r(t) = r' + (r − r')/2·(1 + cos(πt/T)), r' = 0.005.

    Args:
        density: ρ_f = 1 − s_f, the fraction that stays at the end.
        end: t_f, the step of the last cut; the paper takes half of training, of ImageNet's a third.
        until: T, the step from which the network is left alone; the paper takes all of training.
        every: ΔT; the paper takes 1,000 steps for CIFAR, 4,000 for ImageNet.
        initial: 1 − s_i: 1 begins dense; below that the network begins at random, the paper's sparse form at 0.5.
        fraction: r, the part of each layer that the first exchange would move.
        quota: how many weights each layer begins with where `initial` is below 1; `scope.erk()` by default.

    Family: during training.
    Source: Liu et al., NeurIPS 2021, arXiv 2106.10404, eq. 1, Algorithm 1 and the authors' code.
    Deviates: the last cut reaches ρ_f, where the authors' code stops one update short of it; counts are exact, and a
    grown weight that is still zero is alive; growth sees the gradient of the step at which it happens.
    """
    begins_sparse = initial < 1
    return method(
        "granet",
        score,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=gradual(density, end=end, until=until, every=every, initial=initial),
        regrow=drop_and_grow(
            measured(growth),
            cosine(fraction, until=until, end=0.005),
            start=measured(at_random) if begins_sparse else None,
            quota=(quota or scope.erk()) if begins_sparse else None,
        ),
    )
