"""The column sweep: one pass over a layer's inputs, each error made up for by the inputs to its right (SparseGPT)."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Float
from secateur.selection import kept_count, topk_mask

_BASE = 64  # a triangular matrix of this size is inverted column by column
_INNER = 16  # columns that make up for one another one by one; those behind them follow in one product


def inverse_factor(moments: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    """U, upper triangular, with UᵀU = G⁻¹: U_jj² is [G⁻¹]_jj once the inputs before j are fixed.

    Raises:
        SecateurError: G is not positive definite; more damping makes it so.
    """
    # From the last input to the first: G = R Rᵀ with R upper triangular, and U = R⁻¹. Half the work of inverting G.
    lower, failed = torch.linalg.cholesky_ex(moments.flip(0, 1))
    if int(failed):
        raise SecateurError(
            "the second moments of a layer's inputs are not positive definite (at input "
            f"{len(moments) - int(failed)}): raise `damping`, or calibrate on more samples."
        )
    _invert_(lower)
    return lower.flip(0, 1)


def _invert_(lower: Tensor) -> None:
    """Write the inverse of a lower triangular matrix over it, by halves: nearly all of it is matrix products."""
    size = len(lower)
    if size <= _BASE:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    half = size // 2
    first, second, below = lower[:half, :half], lower[half:, half:], lower[half:, :half]
    _invert_(first)
    _invert_(second)
    below.copy_(-(second @ (below @ first)))


def column_sweep(
    weight: Float[Tensor, "out in"],
    factor: Float[Tensor, "columns columns"],
    *,
    keep: Bool[Tensor, "out in"] | None = None,
    density: float = 0.5,
    pattern: tuple[int, int] | None = None,
    block: int = 128,
) -> tuple[Float[Tensor, "out in"], Bool[Tensor, "out in"]]:
    """Cut from left to right, and spread what each cut changes over the inputs that come after it.

    In column j the cut weights leave e = (w_j − q_j)/U_jj, and W_:k ← W_:k − e·U_jk for k > j. Where `keep` is None,
    each block of columns chooses its own on the weights as they have become, the smallest w²/U_jj² of rows × block;
    counts add up to exactly ⌊ρ·out·in + ½⌋.

    Args:
        weight: the layer's weights, one row per output.
        factor: U of `inverse_factor`.
        keep: what stays, chosen by somebody else; None: chosen on the way.
        density: ρ, where it is chosen here.
        pattern: (N, M): N of each M consecutive inputs stay, instead of a density.
        block: columns that choose together; a multiple of M.

    Returns:
        The weights that make up for what was cut, in the type of `weight`, and what was kept.

    Source: Frantar & Alistarh, "SparseGPT", arXiv 2301.00774, Algorithm 1.
    Deviates: counts are exact, where the authors' `<=` threshold cuts one more and all ties.
    """
    _check(weight, factor, pattern, block)
    columns = weight.T.to(factor.dtype, copy=True, memory_format=torch.contiguous_format)  # one input after another
    kept = torch.ones_like(columns, dtype=torch.bool) if keep is None else keep.T.contiguous()
    inputs, outputs = columns.shape
    diagonal = factor.diagonal()
    for first in range(0, inputs, block):
        last = min(first + block, inputs)
        if keep is None and pattern is None:
            count = kept_count(density, last * outputs) - kept_count(density, first * outputs)
            kept[first:last] = _best(columns[first:last], diagonal[first:last], count)
        errors = columns.new_zeros(last - first, outputs)
        for begin in range(first, last, _inner(pattern)):
            end = min(begin + _inner(pattern), last)
            if keep is None and pattern is not None:
                kept[begin:end] = _best_of_each(columns[begin:end], diagonal[begin:end], pattern)
            _make_up(columns, kept, factor, errors[begin - first : end - first], begin, end)
            columns[end:last] -= factor[begin:end, end:last].T @ errors[begin - first : end - first]
        columns[last:] -= factor[first:last, last:].T @ errors
    columns *= kept
    return columns.T.to(weight.dtype).contiguous(), kept.T.contiguous()


def _make_up(columns: Tensor, kept: Tensor, factor: Tensor, errors: Tensor, begin: int, end: int) -> None:
    """Cut a few columns one after the other; each makes up for those before it among them."""
    for j in range(begin, end):
        error = torch.where(kept[j], 0.0, columns[j]) / factor[j, j]
        errors[j - begin] = error
        if j + 1 < end:
            columns[j + 1 : end] -= factor[j, j + 1 : end, None] * error


def _inner(pattern: tuple[int, int] | None) -> int:
    return _INNER if pattern is None else pattern[1]


def _best(columns: Tensor, diagonal: Tensor, count: int) -> Tensor:
    if count == 0:
        return torch.zeros_like(columns, dtype=torch.bool)
    return topk_mask({"": (columns / diagonal[:, None]).square().T.contiguous()}, count)[""].T


def _best_of_each(columns: Tensor, diagonal: Tensor, pattern: tuple[int, int]) -> Tensor:
    scores = (columns / diagonal[:, None]).square()
    order = scores.argsort(dim=0, descending=True, stable=True)[: pattern[0]]
    return torch.zeros_like(columns, dtype=torch.bool).scatter_(0, order, True)


def _check(weight: Tensor, factor: Tensor, pattern: tuple[int, int] | None, block: int) -> None:
    inputs = weight.shape[1]
    if factor.shape != (inputs, inputs):
        raise SecateurError(f"`factor` must be {inputs} × {inputs}, as `weight` has inputs, got {tuple(factor.shape)}.")
    if block < 1:
        raise SecateurError(f"`block` must be at least 1 column, got {block}.")
    if pattern is not None:
        n, m = pattern
        if not 0 < n <= m or inputs % m or block % m:
            raise SecateurError(
                f"`pattern` must be (N, M) with N ≤ M, M a divisor of the {inputs} inputs and of `block` {block}, got "
                f"{pattern}."
            )
