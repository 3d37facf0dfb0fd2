"""Group-wise brain damage: columns of the lowered filter matrix go, so that a convolution stays a dense product."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, method
from secateur.axes.schedule import linear, once
from secateur.axes.scope import everywhere, floored
from secateur.axes.structure import lowered
from secateur.penalties import group_lasso


def score(weight: Tensor) -> Tensor:
    return weight.square()


def group_brain_damage(
    density: float, *, until: int, strength: float = 3e-3, rounds: int = 1, scope: Scope | None = None
) -> Method:
    """Thin the lowered filter matrix by columns: what all filters read at one input channel and kernel position.

    Minimise L + λ Σ_{c,u,v} ‖w[:, c, u, v]‖₂ until step `until`, where the columns of largest norm stay; they train on
    without the price. With `rounds` above 1 columns go in as many equal parts on the way there (a fixed target, reached
    gradually). A masked convolution is then the dense product of fewer columns of its input patches.

    Args:
        density: the fraction of columns that stays.
        until: the step of the last cut, and the last with the price.
        strength: λ.
        rounds: cuts, evenly spaced, of as many columns each.
        scope: who competes; all columns of all layers by default, of which each layer keeps one at least.

    Family: during training.
    Source: Lebedev & Lempitsky, "Fast ConvNets using group-wise brain damage", arXiv 1506.02515, eqs. 4 to 6, from
    memory.
    Deviates: columns compete by norm for a given share, where the paper cuts below a threshold; in linear layers, which
    the paper leaves alone, a column is an input. Groups of a grouped convolution share their columns. λ is chosen on
    MNIST.
    """
    every = max(1, until // max(1, rounds))
    gradual = linear(density, rounds=rounds, begin=until - every * (rounds - 1), every=every) if rounds != 1 else None
    return method(
        "group_brain_damage",
        score,
        structure=lowered(),
        scope=scope or floored(everywhere(), at_least=1),
        schedule=gradual or once(density, at=until),
        penalty=group_lasso(strength, lowered()),
    )
