"""Soft weight-sharing: retrain under a learned mixture, until the weights share a few values, most of them zero."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import mixture


def soft_weight_sharing(
    *,
    steps: int,
    examples: int = 60_000,
    strength: float = 0.003,
    components: int = 16,
    zero_share: float = 0.99,
    span: float = 0.6,
    mean_rate: float = 1e-4,
    precision_rate: float = 3e-3,
    mixing_rate: float = 3e-3,
) -> Method:
    """Gather all weights at the means of one mixture that is learned along with them, one of which is zero.

    Minimise L(w) − τ/N · [Σ_i log Σ_j π_j N(w_i | μ_j, 1/λ_j) + Σ_j log Gamma(λ_j)] over w, μ, λ and π, with μ₀ = 0 and
    π₀ fixed. In eval mode, and at the end, each weight is the mean of the component that answers for it most: at most J
    values remain in the whole network, and 0 is cut. The density emerges. Start from a trained network.

    Args:
        steps: the length of retraining, in optimizer steps.
        examples: N, of the training set, for a loss that is a mean.
        strength: τ.
        components: J.
        zero_share: π₀; the more, the fewer weights stay.
        span: the other means begin evenly in [−span, span], all deviations at 0.25.
        mean_rate: learning rate of μ, by an Adam of the mixture's own; so are the next two.
        precision_rate: of log λ, whose Gamma distributions are (5000, 2) for zero and (250, 0.1) for the others.
        mixing_rate: of the logits of π.

    Family: after training.
    Alias: sws.
    Source: Ullrich, Meeds & Welling, arXiv 1702.04008, eqs. 4 to 8, and the first author's tutorial code.
    Deviates: biases are left alone; components are not merged in the end, and none but the first is set to zero;
    weights are assigned by the mixture as it was trained (the code's mixing is not normalised there).
    """
    return method(
        "soft_weight_sharing",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=steps),
        relax=mixture(
            components=components,
            zero_share=zero_share,
            span=span,
            strength=strength,
            examples=examples,
            mean_rate=mean_rate,
            precision_rate=precision_rate,
            mixing_rate=mixing_rate,
        ),
    )
