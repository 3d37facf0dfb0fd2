"""Selection: the only place where anything is chosen.

Every count is exact, every tie goes to the lower index, and a score that cannot be ranked is an error.
Comparing with a threshold keeps too many where scores tie, and torch sorts NaN as the largest value, which
would be kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from secateur._base.errors import SecateurError, density_refusal
from secateur._base.shards import is_sharded
from secateur._base.types import Bool, Shaped
from secateur.selection import _cut, _radix, _sharded
from secateur.selection._chosen import Chosen
from secateur.selection._rankable import refuse_sharded, require_costs, require_finite, require_rankable

__all__ = ["at_least", "best_prefix", "check_density", "kept_count", "topk_mask", "topk_rows"]


def check_density(density: float, *, name: str = "density") -> None:
    """Raise SecateurError unless `density`, the fraction kept, lies in (0, 1]; `name` is what to call it."""
    if isinstance(density, int | float) and 0 < density <= 1:
        return
    raise SecateurError(density_refusal(density, name=name))


def kept_count(density: float, total: int) -> int:
    """How many of `total` entries stay at this density: κ = ⌊ρN + ½⌋ (`density` ρ, `total` N), halves up.

    The one expression for it in this library: algebraically equal ones differ by one in binary floating
    point.

    Args:
        density: fraction kept, in (0, 1].
        total: number of entries, at least 0.

    Raises:
        SecateurError: `density` outside (0, 1], or a negative `total`.

    >>> kept_count(0.05, 15_245_130)
    762257
    """
    check_density(density)
    if total < 0:
        raise SecateurError(f"`total` must be at least 0, got {total}. It is the number of entries.")
    return min(total, math.floor(density * total + 0.5))


def topk_mask(scores: Mapping[str, Tensor], keep: int) -> Chosen:
    """Keep the `keep` highest scores over all tensors together; True is kept.

    Exactly `keep` entries are True. Of equal scores (-0.0 equals +0.0) the one with the lower index is
    kept: the order of the mapping first, then the flat index. So a larger `keep` only adds entries. Tensors
    may differ in dtype and device; values are compared exactly, as float32 or float64. Time is linear in
    the number of scores N, and besides the masks (one byte per score) the memory used is bounded, however large
    N is: nothing is copied or concatenated, and only the few scores near the cut are sorted out by themselves.
    Scores that are cut up over processes (DTensor) stay where they are: their processes call this together, add up
    their counts, and get masks cut up alike, the same bits as of the whole.

    Args:
        scores: name → scores of any shape, real and finite; higher means keep.
        keep: how many stay, in [0, N]; see `kept_count`.

    Returns:
        name → boolean mask of the scores' shape, on their device; a dictionary that also knows the
        `lower_bound` of what is kept.

    Raises:
        ScoreError: NaN or infinite scores (the tensor is named), or a tensor that cannot be ranked.
        SecateurError: `keep` outside [0, N].

    >>> topk_mask({"a": torch.tensor([0.3, 0.1]), "b": torch.tensor([[0.3], [0.2]])}, 2)
    {'a': tensor([ True, False]), 'b': tensor([[ True], [False]])}
    """
    for name, tensor in scores.items():
        require_rankable(name, tensor)
    total = sum(tensor.numel() for tensor in scores.values())
    if not (isinstance(keep, int) and 0 <= keep <= total):
        raise SecateurError(
            f"`keep` must be a whole number in [0, {total}], from none to all scores, got {keep}. "
            "`kept_count(density, total)` turns a density into a count."
        )
    with torch.no_grad():
        if any(is_sharded(tensor) for tensor in scores.values()):
            return Chosen(_sharded.best(scores, keep))
        return _cut.best(scores, keep)


def best_prefix(
    scores: Mapping[str, Tensor], cost: Mapping[str, float | Tensor], budget: float
) -> dict[str, Bool[Tensor, "..."]]:
    """Keep the highest scores for as long as their costs together stay within `budget`; True is kept.

    Entries are taken in descending order of score, ties by lower index as in `topk_mask`, and the longest
    prefix of that order with Σ cost ≤ budget is kept. Nothing cheaper further down is tried once an entry
    does not fit. Costs are added up in float64: exactly for whole numbers up to 2⁵³, within rounding for
    others.

    Args:
        scores: name → scores of any shape, real and finite; higher means keep.
        cost: name → what one entry of that tensor costs (the MACs of one filter, say), finite and at least 0:
            one number for all entries, or a tensor of the scores' shape.
        budget: the most that may be spent, at least 0, in the unit of `cost`.

    Returns:
        name → boolean mask of the scores' shape, on their device.

    Raises:
        ScoreError: NaN or infinite scores; a cost that is missing, of another shape, negative or not finite.
        SecateurError: `budget` is negative or NaN.

    >>> best_prefix({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0])}, {"a": 10, "b": 5}, 15)
    {'a': tensor([ True, False]), 'b': tensor([True])}
    """
    for name, tensor in scores.items():
        require_rankable(name, tensor)
        refuse_sharded(name, tensor, "within a budget")
    require_costs(scores, cost)
    if not budget >= 0:
        raise SecateurError(f"`budget` must be at least 0, got {budget}. It is in the unit of `cost`.")
    with torch.no_grad():
        return _cut.masks_within(scores, cost, float(budget))


def topk_rows(
    scores: Shaped[Tensor, "rows entries"], keep: int, *, name: str = "scores"
) -> Bool[Tensor, "rows entries"]:
    """Keep the `keep` highest scores of every row; True is kept.

    Each row is a pool of its own, chosen from as by `topk_mask`: exactly `keep` entries, ties by lower index.

    Args:
        scores: real and finite; higher means keep.
        keep: how many stay in each row, in [0, entries].
        name: what to call the scores in an error.

    Raises:
        ScoreError: NaN or infinite scores, or a tensor that cannot be ranked.
        SecateurError: `keep` outside [0, entries].

    >>> topk_rows(torch.tensor([[0.3, 0.1, 0.3], [0.2, 0.5, 0.9]]), 1)
    tensor([[ True, False, False],
            [False, False,  True]])
    """
    require_rankable(name, scores)
    refuse_sharded(name, scores, "row by row")
    rows, entries = scores.shape
    if not (isinstance(keep, int) and 0 <= keep <= entries):
        raise SecateurError(
            f"`keep` must be a whole number in [0, {entries}], the entries of a row, got {keep}. "
            "`kept_count(density, entries)` turns a density into a count."
        )
    require_finite({name: scores})
    mask = torch.zeros(rows, entries, dtype=torch.bool, device=scores.device)
    dtype = _radix.key_dtype([scores])
    best = _best_of_short_rows if entries <= 16 else _best_of_rows
    step = max(1, _radix.PART // max(1, entries))
    for begin in range(0, rows, step):
        block = scores.detach()[begin : begin + step].to(dtype)
        mask[begin : begin + step] = best(block, keep)
    return mask


def at_least(scores: Shaped[Tensor, "*shape"], value: float, *, name: str = "scores") -> Bool[Tensor, "*shape"]:
    """Keep every score of at least `value`, however many those are; True is kept.

    The one selection by threshold, for methods that learn one. `name` is what to call the scores in an error.

    Raises:
        ScoreError: NaN or infinite scores, or a tensor that cannot be ranked.
        SecateurError: `value` is NaN.

    >>> at_least(torch.tensor([0.3, 0.1, 0.2]), 0.2)
    tensor([ True, False,  True])
    """
    if math.isnan(value):
        raise SecateurError("`value` must be a number, got NaN. Use -inf to keep all, inf to keep none.")
    require_rankable(name, scores)
    refuse_sharded(name, scores, "by a threshold")
    require_finite({name: scores})
    return scores.detach() >= value


def _best_of_rows(scores: Tensor, keep: int) -> Tensor:
    scores = torch.where(scores == 0, 0.0, scores)  # -0.0 ties with +0.0 on every device
    order = scores.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :keep], True)


def _best_of_short_rows(scores: Tensor, keep: int) -> Tensor:
    """By counting for each entry how many come before it: sorting millions of rows of four is far slower."""
    rank = torch.zeros_like(scores, dtype=torch.int8)
    for column in range(scores.shape[1]):
        rival = scores[:, column : column + 1]
        rank += rival > scores
        rank[:, column + 1 :] += rival == scores[:, column + 1 :]
    return rank < keep
