"""RigL: sparse from start to end; weights go by magnitude and come where the dense gradient is largest."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.regrow import cosine, drop_and_grow
from secateur.axes.schedule import exchanges
from secateur.axes.structure import weights
from secateur.measures import Measure
from secateur.measures import grad as of_this_step


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def growth(grad: Tensor) -> Tensor:
    return grad.abs()


def at_random(noise: Tensor) -> Tensor:
    return noise


def rigl(
    density: float,
    *,
    until: int,
    every: int = 100,
    fraction: float = 0.3,
    begin: int = 0,
    quota: Scope | None = None,
    evidence: Measure | None = None,
    just_dropped: bool = True,
) -> Method:
    """Train a sparse network that moves its weights to where the loss asks for them; its size never changes.

    Starts at random. Every ΔT steps each layer l with n_l weights drops the k_l = ⌊f(t)·n_l⌋ smallest |w| and grows the
    k_l largest |∂L/∂w| of what it does not keep, from zero, with f(t) = α/2·(1 + cos(π(t − t₀)/(T − t₀))).

    Args:
        density: the fraction that stays, throughout.
        until: T, the step from which the network is left alone; the paper takes ¾ of training.
        every: ΔT, optimizer steps between two exchanges.
        fraction: α, the part of each layer that the first exchange would move.
        begin: t₀, the step of the first exchange.
        quota: how many weights each layer gets; `scope.erk()` by default, as in the paper's best results. Its uniform
            form with a dense first layer is `scope.keeping(scope.layerwise(), 0)`.
        evidence: the gradient by which weights grow: `measures.grad()` of the present step, as in the paper (the
            default), `measures.grad(memory=Memory.INTERVAL)`, the sum since the last exchange, or
            `measures.grad_average()`.
        just_dropped: whether what has just been dropped may grow at once; it then keeps its value, as in the authors'
            code. False is the stricter reading of the paper: what grows was not alive before.

    Family: during training.
    Source: Evci et al., arXiv 1911.11134, §3 and Algorithm 1.
    Deviates: the optimizer takes its step on the steps of an exchange too, where the authors skip it, and the exchange
    uses that step's gradient and the weights after it; no noise of 1e−5 is added to the drop score, which lets dead
    weights displace living ones; the cosine runs on t − t₀, where their code divides t by T − t₀.
    """
    grows = measured(growth, {"grad": evidence or of_this_step()})
    return method(
        "rigl",
        score,
        structure=weights(),
        scope=quota or scope.erk(),
        schedule=exchanges(density, every=every, until=until, begin=begin),
        regrow=drop_and_grow(
            grows, cosine(fraction, until=until, begin=begin), start=measured(at_random), just_dropped=just_dropped
        ),
    )
