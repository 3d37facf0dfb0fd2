"""Deep-R: deep rewiring; a connection whose weight would change its sign dies, and another is tried at random."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.penalty import langevin
from secateur.axes.regrow import anywhere, drop_and_grow, flipped
from secateur.axes.schedule import exchanges
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight


def at_random(noise: Tensor) -> Tensor:
    return noise


def deep_r(
    density: float,
    *,
    until: int,
    strength: float = 1e-5,
    noise: float = 1e-3,
    quota: Scope | None = None,
) -> Method:
    """Train a sparse network that rewires itself at every step: exactly κ connections live, each with a sign for life.

    w_k = s_k θ_k with a fixed sign s_k. Living: θ ← θ − η ∂E/∂θ − ηα + ησν, ν ~ N(0, 1). Where θ < 0 the connection
    dies, and as many of the dead, drawn evenly from all layers, begin to live at θ = 0.

    Args:
        density: the fraction κ/N that lives, throughout, of all layers together.
        until: the step from which the network is left alone, without noise and drift.
        strength: α, the pull of an L1 prior towards zero.
        noise: σ, the deviation of the noise in the gradient: the temperature of the paper is T = ησ²/2.
        quota: how many weights each layer begins with; `scope.layerwise()` by default.

    Family: during training.
    Source: Bellec, Kappel, Maass & Legenstein, ICLR 2018, arXiv 1711.05136, Algorithm 1 (from memory).
    Deviates: temperature is given as noise in the gradient, so that T falls with the learning rate, and is the
    paper's for SGD without momentum alone; other optimizers filter or rescale it. Signs are those of the weights
    after the first step, drawn for connections that do not live then. A layer may lose connections to others, as the
    paper's count is of all; the authors' code keeps it by layer (from memory). What has just died is not drawn in the
    same step.
    """
    return method(
        "deep_r",
        score,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=exchanges(density, every=1, until=until),
        regrow=drop_and_grow(
            measured(at_random),
            start=measured(at_random),
            quota=quota or scope.layerwise(),
            leave=flipped(),
            share=anywhere(),
            just_dropped=False,
        ),
        penalty=langevin(strength, noise),
    )
