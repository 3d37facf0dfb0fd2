"""ESPN: a continuous mask is learned along with the weights under an L1 price, then its largest entries stay."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import shrinking_masks


def espn(density: float, *, until: int, strength: float = 1e-4) -> Method:
    """Learn which weights are needed from a mask that shrinks, cut once, and train what stays.

    Minimise L(w ⊙ m) + α‖m‖₁ over w and m, m₀ = 1. After step `until` the κ largest |m| of all layers together stay,
    exactly; m is folded into the weights, and they train on.

    Args:
        density: the fraction that stays.
        until: the step of the cut.
        strength: α; the authors tune it for each density, 8e-5 to 6e-4.

    Family: during training.
    Source: Cho, Joshi & Hegde, arXiv 2006.15741, Algorithm 1, and the authors' code.
    Deviates: the cut comes at a step that is given, where the authors wait until no more than κ entries of m (signed)
    are above 0.01, for 300 epochs at most; survivors keep w ⊙ m, where the authors go back to pre-trained or warmed-up
    weights; the mask is trained by the optimizer of the weights, without decay. Start from a trained network for their
    *finetune* form.
    """
    return method(
        "espn",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(density, at=until),
        relax=shrinking_masks(strength),
    )
