"""ITOP: in-time over-parameterisation; exchange seldom and much, until a sparse network has tried most weights."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.regrow import cosine, drop_and_grow
from secateur.axes.schedule import exchanges
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def at_random(noise: Tensor) -> Tensor:
    return noise


def by_gradient(grad: Tensor) -> Tensor:
    return grad.abs()


def itop(
    density: float,
    *,
    until: int,
    every: int = 1500,
    fraction: float = 0.5,
    gradient: bool = False,
    quota: Scope | None = None,
) -> Method:
    """Train a sparse network that gives new weights time to grow, and in the end has tried nearly all of them.

    Starts at random. Every ΔT steps each layer l with n_l weights drops the ⌊f(t)·n_l⌋ smallest |w| and grows as
    many, at random or by |∂L/∂w|, from zero, f(t) = α' + (α − α')/2·(1 + cos(πt/T)), α' = 0.005. How much was tried
    is R_s = |∪_t m_t|/N: `Pruner.exploration`. The paper's claim is that accuracy follows R_s where ΔT is long
    enough.

    Args:
        density: the fraction that stays, throughout.
        until: T, the step from which the network is left alone; the paper takes all of training.
        every: ΔT; the paper takes 1,500 steps at random (SET-ITOP), 4,000 by gradient (RigL-ITOP).
        fraction: α, the part of each layer that the first exchange would move.
        gradient: grow where the dense gradient is largest (RigL-ITOP), instead of at random (SET-ITOP).
        quota: how many weights each layer gets; `scope.erk()` by default, as in the paper.

    Family: during training.
    Source: Liu, Yin, Mocanu & Pechenizkiy, arXiv 2102.02887, §3, §4 and the authors' code.
    Deviates: counts are exact, where the authors draw masks at random with expected counts; a grown weight that is
    still zero is alive, where their code takes it for pruned; both forms drop by |w|, as their code does. As in
    `rigl`, what has just been dropped may grow at once and then keeps its value.
    """
    return method(
        "itop",
        score,
        structure=weights(),
        scope=quota or scope.erk(),
        schedule=exchanges(density, every=every, until=until),
        regrow=drop_and_grow(
            measured(by_gradient if gradient else at_random),
            cosine(fraction, until=until, end=0.005),
            start=measured(at_random),
        ),
    )
