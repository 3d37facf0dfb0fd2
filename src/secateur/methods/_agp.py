"""AGP: automated gradual pruning, fast first and slowly later, while the network trains."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, Structure, method
from secateur.axes.schedule import cubic
from secateur.axes.scope import layerwise
from secateur.axes.structure import weights


def score(weight: Tensor) -> Tensor:
    return weight.abs()


def agp(
    density: float,
    *,
    end: int,
    begin: int = 0,
    every: int = 100,
    initial: float = 1.0,
    scope: Scope | None = None,
    structure: Structure | None = None,
) -> Method:
    """Cut the smallest weights step by step while training goes on, most of them early.

    ρ_t = ρ_f + (ρ_i − ρ_f)(1 − (t − t₀)/(t₁ − t₀))³ every Δt steps from t₀ to t₁; at each of them every layer keeps its
    κ_l = ⌊ρ_t N_l + ½⌋ largest |w|, of those that were left.

    Args:
        density: ρ_f, the fraction of each layer that stays at the end.
        end: t₁, the optimizer step of the last cut.
        begin: t₀, the step of the first.
        every: Δt, optimizer steps between two cuts.
        initial: ρ_i, the density before the first cut.
        scope: who competes; the paper's is each layer for itself. `scope.uniform_plus()` is that of "The state of
            sparsity" (arXiv 1902.09574): the first layer whole, a fifth of the last at least, the others alike.
        structure: what is cut as one; single weights by default.

    Family: during training.
    Source: Zhu & Gupta, arXiv 1710.01878, eq. 1.
    Deviates: masks are nested (TensorFlow's masked weights keep their values and may return); exactly κ_l weights stay
    where `>=` at a threshold keeps all ties. The paper leaves the first layer or the embedding dense in places:
    `scope.keeping`, or `only=`.
    """
    return method(
        "agp",
        score,
        structure=structure or weights(),
        scope=scope or layerwise(),
        schedule=cubic(density, begin=begin, end=end, every=every, initial=initial),
    )
