"""Low rank: learn a few entries of each unit's weights and predict the others from them."""

from __future__ import annotations

from secateur.axes import Method, method, scope
from secateur.axes.schedule import once
from secateur.axes.structure import weights
from secateur.gates import low_ranks
from secateur.gates.representations import Kernel


def low_rank(*, steps: int, share: float = 0.25, kernel: Kernel | None = None, ridge: float = 1e-6) -> Method:
    """Train V [out, r] in W = V Uᵀ, with U [n, r] fixed: r = share · n numbers for each unit of n inputs.

    With a kernel K of the inputs: V are a unit's weights at r places α, drawn at random, and the others are predicted,
    w = K_{·α}(K_αα + λI)⁻¹ w_α. Without one: U are the first r right singular vectors of the weight, so that training
    begins at the nearest matrix of that rank.

    Args:
        steps: the length of training, in optimizer steps.
        share: r/n.
        kernel: (name, weight as [out, n]) → [n, n]: `gates.squared_exponential(28, 28, length=2)` for pixels, second
            moments of the inputs (`measures.gram`, by `gather`) for deeper layers; None for a layer
            takes its singular vectors.
        ridge: λ.

    Family: during training.
    Source: Denil, Shakibi, Dinh, Ranzato & de Freitas, arXiv 1306.0543.
    Deviates: one set of places for all units of a layer (the paper has several “columns”, each with its own); singular
    vectors are not the paper's.
    """
    return method(
        "low_rank",
        None,
        structure=weights(),
        scope=scope.everywhere(),
        schedule=once(None, at=steps),
        relax=low_ranks(share=share, kernel=kernel, ridge=ridge),
    )
