"""Wanda: weights times the size of their inputs, compared within each output."""

from __future__ import annotations

from torch import Tensor

from secateur.axes import Method, Scope, method
from secateur.axes.schedule import Schedule, once
from secateur.axes.scope import per_row
from secateur.axes.structure import weights


def score(weight: Tensor, input_norm: Tensor) -> Tensor:
    return weight.abs() * input_norm


def wanda(density: float, *, scope: Scope | None = None, schedule: Schedule | None = None) -> Method:
    """Keep the weights that pass most on, of each output the same number: s_ij = |W_ij|·‖X_j‖₂. No update, no solve.

    ‖X_j‖₂ (`input_norm`) is the norm of the j-th input over all samples and positions of the batches; of a convolution
    it is that of the patches. With N:M: `wanda(0.5, scope=scope.n_of_m(2, 4))`. With `prune(..., blocks=…)` it looks at
    each block behind those already pruned, as the paper does.

    Args:
        density: ρ; of each output's n inputs max(1, ⌊ρn + ½⌋) stay.
        scope: who competes; the inputs of each output by default (`per_row`).
        schedule: when, for a `Pruner`; it must end at `density`. By default once.

    Family: after training.
    Source: Sun, Liu, Bair & Kolter, arXiv 2306.11695, §3, eq. 1.
    Deviates: counts are rounded to the nearest; the authors cut ⌊(1 − ρ)n⌋, which keeps one more where the two differ.
    Norms are sums over the batches, where theirs are means: the masks are the same.
    """
    plan = schedule or once(density)
    if plan.final != density:
        raise ValueError(f"`schedule` ends at density {plan.final}, got density={density:g}. Make them agree.")
    return method("wanda", score, structure=weights(), scope=scope or per_row(), schedule=plan)
