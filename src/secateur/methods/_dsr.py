"""DSR: dynamic sparse reparameterisation; one threshold cuts all layers, and weights move to those that kept most."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, measured, method, scope
from secateur.axes.regrow import adaptive, by_survivors, drop_and_grow
from secateur.axes.schedule import exchanges
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def at_random(noise: Tensor) -> Tensor:
    return noise


def dsr(
    density: float,
    *,
    until: int,
    every: int = 100,
    fraction: float = 0.138,
    threshold: float = 1e-3,
    tolerance: float = 0.1,
    quota: Scope | None = None,
) -> Method:
    """Train a sparse network whose weights move between layers: few survive the threshold, few come back.

    Starts at random. Every ΔT steps all |w| < H go, in all layers, and as many come at random places, from zero:
    of the K in all, layer l gets K·R_l/Σ R, R_l its survivors. H ← H/2 if K > (1 + δ)N_p, 2H if K < (1 − δ)N_p.

    Args:
        density: the fraction that stays, throughout, of all layers together.
        until: the step from which the network is left alone.
        every: ΔT; the paper begins with 100 steps and doubles it three times.
        fraction: N_p over all living weights; the paper's 20,000 are 13.8 % of a WRN-28-2 at 90 % sparsity.
        threshold: H before the first exchange.
        tolerance: δ.
        quota: how many weights each layer begins with; `scope.layerwise()` by default.

    Family: during training.
    Source: Mostafa & Wang, ICML 2019, arXiv 1902.05967, Algorithm 1, and the code.
    Deviates: ΔT is constant; all prunable layers take part (the code leaves the first convolution, shortcuts and the
    output layer dense: narrow with `only=`). As there, what has just gone does not return at once, and no layer loses
    its last weight.
    """
    return method(
        "dsr",
        score,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=exchanges(density, every=every, until=until),
        regrow=drop_and_grow(
            measured(at_random),
            start=measured(at_random),
            quota=quota or scope.layerwise(),
            leave=adaptive(fraction, start=threshold, tolerance=tolerance),
            share=by_survivors(),
            just_dropped=False,
        ),
    )
