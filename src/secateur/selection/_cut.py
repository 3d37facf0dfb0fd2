"""Where a ranking is cut: by count, or by the cost of what is kept. The masks follow from the cut.

A cut is found digit by digit: count (or add up the cost of) the scores for each value of the first digit of
their keys, walk down from the highest value to the one at which the limit is reached, and go on with its
next digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secateur.selection import _radix
from secateur.selection._chosen import Chosen
from secateur.selection._radix import DIGIT_BITS, DIGITS, Counts
from secateur.selection._rankable import require_finite

ALL = 1 << 62  # more ties than any model has scores

Cost = float | Tensor
Costs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """Keep every key above `threshold`, and the first `ties` keys equal to it. Keys are those of `dtype`."""

    threshold: int
    ties: int
    dtype: torch.dtype


def by_count(
    scores: Mapping[str, Tensor],
    keep: int,
    *,
    dtype: torch.dtype | None = None,
    total: Callable[[Counts], Counts] = lambda counts: counts,
) -> Cut:
    """The cut that keeps exactly `keep` of the scores; ScoreError if some are NaN or infinite.

    Args:
        scores: what is ranked, or of several processes each one's part.
        keep: how many stay of all.
        dtype: that of the keys, where other processes have scores of other types.
        total: adds up the counts of all processes.
    """
    dtype = dtype or _radix.key_dtype(scores.values())
    prefix, need = 0, keep
    for shift in _radix.shifts(dtype):
        counts = total(_radix.count_digits(scores.values(), dtype, shift=shift, prefix=prefix))
        if shift == _radix.shifts(dtype)[0]:
            _require_finite(counts, scores, dtype)
        if need == 0:
            return Cut((1 << _radix.key_bits(dtype)) - 1, 0, dtype)  # a NaN's key, above every score
        from_top = np.cumsum(counts[::-1])
        position = int(np.searchsorted(from_top, need))
        digit = DIGITS - 1 - position
        here = int(counts[digit])
        need -= int(from_top[position]) - here
        prefix = (prefix << DIGIT_BITS) | digit
        if need == here:  # all that share these digits stay: the other digits need not be looked at
            return Cut(prefix << shift, ALL, dtype)
    return Cut(prefix, need, dtype)


def best(scores: Mapping[str, Tensor], keep: int) -> Chosen:
    """The masks of the `keep` highest scores; ScoreError if some are NaN or infinite."""
    masks = {name: _empty_mask(tensor) for name, tensor in scores.items()}
    dtype, threshold = _radix.key_dtype(scores.values()), None
    if keep and _in_place(scores, dtype):
        threshold = _radix.topk(list(scores.values()), keep, list(masks.values()))
    if threshold is None:
        cut = by_count(scores, keep)
        fill(scores, cut, masks)
        threshold = cut.threshold
    return Chosen(masks, of=scores, at_least=_radix.value_of(threshold, dtype)) if keep else Chosen(masks)


def _in_place(scores: Mapping[str, Tensor], dtype: torch.dtype) -> bool:
    return bool(scores) and all(_radix.in_place(tensor, dtype) for tensor in scores.values())


def fill(scores: Mapping[str, Tensor], cut: Cut, masks: Mapping[str, Tensor]) -> None:
    """Write the masks of a cut; ties are kept in the order of the mapping, then of the flat index."""
    if _in_place(scores, cut.dtype):
        _radix.fill_masks(list(scores.values()), cut.threshold, cut.ties, list(masks.values()))
        return
    left = cut.ties
    for name, tensor in scores.items():
        for part, here in _parts_with_place(tensor, cut.dtype):
            found = _radix.fill_masks([part], cut.threshold, left, [masks[name].view(-1)[here]])
            left = max(0, left - found)


def masks_within(scores: Mapping[str, Tensor], cost: Mapping[str, Cost], budget: float) -> dict[str, Tensor]:
    """The masks of the longest prefix of the ranking within `budget`; ScoreError as in `by_count`."""
    dtype = _radix.key_dtype(scores.values())
    threshold, left = _threshold_by_cost(scores, cost, budget, dtype)
    masks = {}
    for name, tensor in scores.items():
        masks[name] = _empty_mask(tensor)
        for part, here in _parts_with_place(tensor, dtype):
            kept, left = _pay_for_ties(part, threshold, _part_of(cost[name], here), left)
            _radix.fill_masks([part], threshold, kept, [masks[name].view(-1)[here]])
    return masks


def _threshold_by_cost(
    scores: Mapping[str, Tensor], cost: Mapping[str, Cost], budget: float, dtype: torch.dtype
) -> tuple[int, float]:
    """The key at which the budget runs out, and what the keys above it leave of the budget."""
    prefix, spent = 0, 0.0
    for shift in _radix.shifts(dtype):
        if shift == _radix.shifts(dtype)[0]:
            counts = _radix.count_digits(scores.values(), dtype, shift=shift, prefix=prefix)
            _require_finite(counts, scores, dtype)
        costs = np.zeros(DIGITS)
        for name, tensor in scores.items():
            costs += _cost_of_digits(tensor, cost[name], dtype, shift, prefix)
        spent_down_to = spent + np.cumsum(costs[::-1])
        position = int(np.searchsorted(spent_down_to, budget, side="right"))
        if position == DIGITS:  # everything fits (or all of these digits do, by the rounding of their sum)
            return prefix << (shift + DIGIT_BITS), float("inf")
        if position > 0:
            spent = float(spent_down_to[position - 1])
        prefix = (prefix << DIGIT_BITS) | (DIGITS - 1 - position)
    return prefix, budget - spent


def _cost_of_digits(scores: Tensor, cost: Cost, dtype: torch.dtype, shift: int, prefix: int) -> Costs:
    """What the scores with each value of a digit cost together."""
    if not isinstance(cost, Tensor):
        return _radix.count_digits([scores], dtype, shift=shift, prefix=prefix).astype(np.float64) * float(cost)
    costs = np.zeros(DIGITS)
    for part, here in _parts_with_place(scores, dtype):
        digits, where = _radix.matching_digits(part, shift, prefix)
        weights = _flat(cost)[here].to(part.device)
        weights = weights if where is None else weights[where]
        # On the CPU: a GPU adds floats in another order every time, and the cut would be a matter of luck.
        costs += torch.bincount(digits.cpu(), weights.cpu().double(), minlength=DIGITS).numpy()
    return costs


def _pay_for_ties(part: Tensor, threshold: int, cost: Cost, left: float) -> tuple[int, float]:
    """How many entries at the threshold `left` pays for, in index order, and what is left (< 0: the end)."""
    ties = _radix.signed_keys(part) == _radix.signed(threshold, part.dtype)
    found = int(ties.sum())
    if left < 0 or not found:
        return 0, left
    if isinstance(cost, Tensor):
        sums = cost.to(part.device)[ties].cpu().double().cumsum(0)
        kept = int((sums <= left).sum())
        paid = float(sums[kept - 1]) if kept else 0.0
    else:
        kept = found if cost * found <= left else int(left // cost)
        paid = kept * cost
    # The first entry that does not fit ends the prefix, even if one further down costs nothing.
    return kept, left - paid if kept == found else -1.0


def _empty_mask(scores: Tensor) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


def _parts_with_place(scores: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, slice]]:
    """The `parts` of the scores and where each lies in the flattened tensor."""
    offset = 0
    for part in _radix.parts(scores, dtype):
        yield part, slice(offset, offset + part.numel())
        offset += part.numel()


def _part_of(cost: Cost, here: slice) -> Cost:
    return _flat(cost)[here] if isinstance(cost, Tensor) else cost


def _flat(cost: Tensor) -> Tensor:
    return cost.detach().reshape(-1)


def _require_finite(counts: Counts, scores: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Refuse NaN and infinities: an exponent of all ones, which the counts of the first digit give away."""
    exponent_bits = 8 if dtype == torch.float32 else 11
    # Negative ones have the lowest digits, positive ones the highest.
    edge = 1 << (DIGIT_BITS - 1 - exponent_bits)
    if counts[:edge].any() or counts[DIGITS - edge :].any():
        require_finite(scores)
