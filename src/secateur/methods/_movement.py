"""Movement pruning: what counts is whether a weight grows while the network is trained, not how large it is."""

from __future__ import annotations

from secateur.axes import Method, Scope, Structure, method, scope
from secateur.axes.schedule import cubic, once
from secateur.axes.structure import weights
from secateur.gates import moving, moving_above


def movement(
    density: float,
    *,
    end: int,
    begin: int = 0,
    every: int = 25,
    structure: Structure | None = None,
    among: Scope | None = None,
) -> Method:
    """Keep the weights that training moves away from zero: S accumulates −∂L/∂w · w, and the largest S stay.

    Forward with W ⊙ M, M = 1 for the best of S; backward ∂L/∂S = ∂L/∂(W ⊙ M) ⊙ W for all of S, so that what was cut
    may come back, at the value that it had. The density falls on a cubic. Under plain SGD S = −η·Σ ∂L/∂(W ⊙ M) ⊙ W.

    Args:
        density: the fraction that stays in the end.
        end: the step at which it is reached.
        begin: the step at which the first go.
        every: optimizer steps between two choices.
        structure: what moves together: single weights, or `structure.blocks(32, 32)`, whose scores are added up.
        among: who competes with whom; all weights by default.

    Family: during training.
    Source: Sanh, Wolf & Rush, arXiv 2005.07683, §4 and Table 1 (hard), and the authors' code.
    Deviates: the scores are trained at the weights' learning rate (theirs is 3e-2 or 1e-2 under Adam); no distillation;
    it starts from any network, theirs is pre-trained; all prunable weights are scored, theirs are the encoder's.
    """
    return method(
        "movement",
        None,
        structure=structure or weights(),
        scope=among or scope.everywhere(),
        schedule=cubic(density, begin=begin, end=end, every=every),
        relax=moving(),
    )


def soft_movement(*, end: int, threshold: float = 0.1, strength: float = 1e-4) -> Method:
    """Keep the weights whose movement scores stay above a threshold, under a price that pulls them down.

    M = 1 where σ(S) > τ, with τ risen on a cubic to `threshold` at step `end`; λ·Σσ(S) joins the loss. The density
    emerges. As `movement` otherwise.

    Args:
        end: the step at which the threshold is full.
        threshold: τ in the end.
        strength: λ, per weight.

    Family: during training.
    Source: Sanh, Wolf & Rush, arXiv 2005.07683, §4 (soft), and the authors' code.
    Deviates: λ is a price per weight, where the authors' is the weight of a mean over each matrix (400, for BERT); no
    layer is made to keep 0.5 %; as `movement` otherwise.
    """
    return method(
        "soft_movement",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=end),
        relax=moving_above(threshold, end=end, strength=strength),
    )
