"""Sparse variational dropout: each weight learns how much noise it bears, and one that is noise is cut."""

from __future__ import annotations

from secateur._base.errors import SecateurError
from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import variational


def variational_dropout(
    *,
    steps: int,
    examples: int = 60_000,
    warm_up: int | None = None,
    threshold: float = 3.0,
    start: float = -10.0,
    strength: float = 1.0,
    rate: float = 1e-3,
    clip: bool = True,
) -> Method:
    """Learn a dropout rate for each weight, under a prior that wants it high, and cut what is nearly all noise.

    w ~ N(θ, σ²), α = σ²/θ². Minimise L + λ(t)/N · Σ KL over θ, the weights themselves, and log σ², with
    KL(α) ≈ k₁ − k₁·sigmoid(k₂ + k₃ log α) + ½ log(1 + 1/α), (k₁, k₂, k₃) = (0.63576, 1.8732, 1.48695). Linear and
    convolutional layers draw their outputs: mean θ∗x + b, variance σ²∗x². At the end, and in eval mode, the weight is
    θ where log α < `threshold`, else 0. The density emerges.

    Args:
        steps: the length of training, in optimizer steps.
        examples: N, of the training set, for a loss that is a mean.
        warm_up: steps in which λ(t) rises from 0 to `strength`; a fifth of `steps` by default.
        threshold: of log α; 3 is a dropout rate of 95 %.
        start: log σ² at the beginning.
        strength: λ at the end; 1 is the variational bound.
        rate: learning rate of log σ², which has an Adam of its own: under SGD at a weight's rate it would hardly move.
        clip: whether what is above the threshold is left out of training's forwards too, noise and all.

    Family: during training.
    Alias: svd.
    Source: Molchanov, Ashukha & Vetrov, arXiv 1701.05369, eqs. 11 to 14 and the authors' layers.
    Deviates: the variance is exp(log σ²), not α·θ² with α clipped; the rate of log σ² does not decay; the warm-up is
    linear over a fifth of training (the authors' differs from net to net); recurrent layers and attention draw the
    weights, not the outputs; biases are not noisy. Weight decay on θ, if the optimizer has some, regularises twice.
    """
    warm = steps // 5 if warm_up is None else warm_up
    if warm >= steps:
        raise SecateurError(
            f"`warm_up` must end before training does, after {steps} steps, got {warm}. Give fewer, or leave it out "
            "for a fifth."
        )
    return method(
        "variational_dropout",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=steps),
        relax=variational(
            examples=examples,
            warm_up=warm,
            threshold=threshold,
            start=start,
            strength=strength,
            rate=rate,
            clip=clip,
        ),
    )
