"""CHITA: which weights stay and what they become, as one sparse regression on gradients over the whole network."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Repair, measured, method
from secateur.axes.schedule import once
from secateur.axes.scope import everywhere
from secateur.axes.structure import weights
from secateur.curvature import sparse_regression
from secateur.repairs import Solved


def score(solution: Tensor) -> Tensor:
    return solution.abs()


def chita(
    density: float, *, ridge: float = 1e-4, group: int = 1, most: int | None = 500, repair: Repair | None = None
) -> Method:
    """Choose all weights of the network together, with their new values, so that the loss rises least to second order.

    min ½‖X(w − w̄)‖² + (nλ/2)‖w − w̄‖² with ‖w‖₀ ≤ κ, X n gradients at the trained w̄: by hard thresholds with a line
    search, and a refit of every support (`curvature.sparse_regression`). The κ weights that are not 0 stay.

    Args:
        density: κ as a fraction of all weights.
        ridge: λ.
        group: samples that each gradient is the mean of (the authors take 16).
        most: n at most. Memory is n times the weights, 8 bytes each.
        repair: what the survivors do; they take the solution's values by default.

    Family: after training.
    Source: Benbaki, Chen, Meng, Hazimeh, Ponomareva, Zhao & Mazumder, "Fast as CHITA", arXiv 2302.14623, §3.
    Deviates: no first-order term (off in the authors' script as well); neither blocks nor coordinate descent; a single
    stage: several are rounds of `prune(..., masks=)` with gradients anew.
    """
    solution = sparse_regression(keep=density, ridge=ridge, group=group, most=most)
    return method(
        "chita",
        measured(score, {"solution": solution}),
        structure=weights(),
        scope=everywhere(),
        schedule=once(density),
        repair=repair or Solved(solution),
    )
