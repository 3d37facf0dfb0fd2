"""RigL: sparse from start to end; weights go by magnitude and come where the dense gradient is largest."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.regrow import cosine, drop_and_grow
from secateur.axes.schedule import steady
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def growth(grad: Tensor) -> Tensor:
    return grad.abs()


def at_random(noise: Tensor) -> Tensor:
    return noise


def rigl(density: float, *, until: int, every: int = 100, fraction: float = 0.3, quota: Scope | None = None) -> Method:
    """Train a sparse network that moves its weights to where the loss asks for them; its size never changes.

    Starts at random. Every ΔT steps each layer l with n_l weights drops the k_l = ⌊f(t)·n_l⌋ smallest |w| and grows the
    k_l largest |∂L/∂w| of what it does not keep, from zero, with f(t) = α/2·(1 + cos(πt/T)).

    Args:
        density: the fraction that stays, throughout.
        until: T, the step from which the network is left alone; the paper takes ¾ of training.
        every: ΔT, optimizer steps between two exchanges.
        fraction: α, the part of each layer that the first exchange would move.
        quota: how many weights each layer gets; `scope.erk()` by default, as in the paper's best results.

    Family: during training.
    Source: Evci et al., arXiv 1911.11134, §3 and Algorithm 1.
    Deviates: the optimizer takes its step on the steps of an exchange too, where the authors skip it, and the exchange
    uses that step's gradient and the weights after it; no noise of 1e−5 is added to the drop score, which lets dead
    weights displace living ones. As in their code, what has just been dropped may grow at once and keeps its value.
    """
    return method(
        "rigl",
        score,
        structure=weights(),
        scope=quota or scope.erk(),
        schedule=steady(density, every=every, until=until),
        regrow=drop_and_grow(measured(growth), cosine(fraction, until=until), start=measured(at_random)),
    )
