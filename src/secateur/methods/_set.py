"""SET: sparse evolutionary training; the weights nearest to zero go, others come at random."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.regrow import constant, drop_and_grow
from secateur.axes.schedule import exchanges
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    # The share of the weights of its own sign that are nearer to zero: the lowest ζ of it are ζ of either sign.
    flat = weight.detach().flatten()
    ranks = torch.zeros(flat.shape, dtype=torch.float64, device=flat.device)
    for side in (flat > 0, flat < 0):
        count = int(side.count_nonzero())
        order = flat[side].abs().argsort(stable=True)
        places = torch.empty(count, dtype=torch.float64, device=flat.device)
        places[order] = torch.arange(1, count + 1, dtype=torch.float64, device=flat.device) / max(count, 1)
        ranks[side] = places
    return ranks.reshape(weight.shape)


def at_random(noise: Tensor) -> Tensor:
    return noise


def set_(
    density: float | None, *, until: int, every: int = 100, fraction: float = 0.3, quota: Scope | None = None
) -> Method:
    """Train a sparse network that replaces its weakest weights by random ones, over and over; its size never changes.

    Starts at random. Every ΔT steps each layer drops the fraction ζ of its positive weights nearest to zero, and ζ of
    its negative ones, and grows as many at random places, from zero.

    Args:
        density: the fraction that stays, throughout; None where `quota` says.
        until: the step from which the network is left alone (the paper goes on to the end).
        every: ΔT, optimizer steps between two exchanges; the paper takes an epoch.
        fraction: ζ.
        quota: how many weights each layer gets; `scope.erk()` by default. The paper's own, ε(n_in + n_out) with ε =
            20, is `scope.erdos_renyi(20)`, whose density comes out; its code leaves the output layer dense:
            `scope.keeping(scope.erdos_renyi(20), -1)`.

    Family: during training.
    Source: Mocanu et al., arXiv 1707.04780, Algorithm 1.
    Deviates: densities follow ERK at a given total unless `quota` says otherwise; the two signs are ranked together
    by their shares, so that the count dropped is exactly ⌊ζn⌋ per layer; weights that are exactly zero go first. What
    has just been dropped may come back, and then keeps its value.
    """
    return method(
        "set",
        score,
        structure=weights(),
        scope=quota or scope.erk(),
        schedule=exchanges(density, every=every, until=until),
        regrow=drop_and_grow(measured(at_random), constant(fraction), start=measured(at_random)),
    )
