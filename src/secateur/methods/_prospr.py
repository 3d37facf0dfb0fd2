"""ProsPr: prune by what a connection will be worth once training has begun."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.signals import prospect


def score(prospect: Tensor) -> Tensor:
    return prospect.abs()


def prospr(
    density: float,
    *,
    inner: int = 3,
    rate: float = 0.1,
    momentum: float = 0.0,
    first_order: bool = False,
    train: bool | None = True,
) -> Method:
    """Keep the connections to which the loss after some steps of training is most sensitive, seen from before them.

    With indicators c on the connections and θ_{i+1} = θ_i − η∇L(c ⊙ θ_i), s_j = |∂L(c ⊙ θ_M)/∂c_j| at c = 1, through
    the M steps (`inner`). The κ largest stay; the weights are those from before the steps. Without any step it is SNIP.

    Args:
        density: the fraction that stays.
        inner: M. Give as many batches and one more for a step each and the last loss; fewer are taken in turns.
        rate: η.
        momentum: of the steps.
        first_order: without the Hessians of the steps: a third of the time, and memory for one graph, not M.
        train: mode while scoring; the authors' code leaves BN on batch statistics (True).

    Family: at initialisation.
    Source: Alizadeh et al., "Prospect pruning", ICLR 2022, arXiv 2202.08132, §3 and Algorithm 1.
    Deviates: the authors' code cuts the graph at the first momentum, and keeps ⌈ρN⌉; whole channels, which it does not
    finish, are not offered.
    """
    evidence = prospect(steps=inner, rate=rate, momentum=momentum, first_order=first_order, train=train)
    return method(
        "prospr",
        measured(score, {"prospect": evidence}),
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
    )
