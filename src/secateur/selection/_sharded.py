"""Selection from scores that are spread over processes: each counts its own, and no score leaves its process.

The digits of the keys are counted by each process, the counts of all are added up, and each walks down the same sums to
the same cut. Ties at the cut are broken by their index in the whole tensor, whose digits are counted in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur._base import shards
from secateur._base.errors import ScoreError
from secateur._base.shards import Part
from secateur.selection import _cut, _radix
from secateur.selection._radix import DIGIT_BITS, DIGITS, Counts
from secateur.selection._rankable import require_finite


def best(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """The masks of the `keep` highest scores, cut up as the scores are; all processes of their mesh call it together.

    Memory besides the masks: a table of 65,536 counts, and the places of the ties of one tensor.

    Raises:
        ScoreError: NaN or infinite scores in any process; tensors that are not cut up over one and the same mesh, or
            not in consecutive pieces.
    """
    mesh = shards.one_mesh(list(scores.values()))
    if mesh is None:
        raise ScoreError("Scores that compete must all be cut up over the same processes (one device mesh).")
    parts = {name: _part(name, tensor) for name, tensor in scores.items()}
    own = {name: shards.local(tensor).detach() for name, tensor in scores.items()}
    _require_finite_everywhere(own, mesh)
    counted = {name: tensor for name, tensor in own.items() if parts[name].counted}
    dtype = _radix.key_dtype(own.values())
    cut = _cut.by_count(counted, keep, dtype=dtype, total=lambda counts: _summed(counts, mesh))
    masks = {name: torch.empty(tensor.shape, dtype=torch.bool, device=tensor.device) for name, tensor in own.items()}
    whole = cut.ties >= _cut.ALL
    _cut.fill(own, cut if whole else _cut.Cut(cut.threshold, 0, dtype), masks)
    if not whole:
        _keep_ties(own, parts, cut, masks, mesh)
    return {name: shards.as_part(mask, scores[name]) for name, mask in masks.items()}


def _part(name: str, tensor: Tensor) -> Part:
    found = shards.part_of(tensor)
    if found is None:
        raise ScoreError(
            f"`scores[{name!r}]` is cut up over processes in another way than in consecutive pieces "
            f"({shards.layout(tensor)[1]}): it cannot be ranked. Prune before the model is cut up."
        )
    return found


def _require_finite_everywhere(own: Mapping[str, Tensor], mesh: Any) -> None:
    words = None
    try:
        require_finite(own)
    except ScoreError as problem:
        words = str(problem)
    words = shards.first_said(words, mesh)
    if words is not None:
        raise ScoreError(words)


def _keep_ties(
    own: Mapping[str, Tensor], parts: Mapping[str, Part], cut: _cut.Cut, masks: Mapping[str, Tensor], mesh: Any
) -> None:
    """Keep of the scores at the cut those that come first: in the order of the tensors, then of their index."""
    at = {name: _at(tensor, cut) for name, tensor in own.items()}
    found = _summed(np.array([len(at[n]) if parts[n].counted else 0 for n in own], dtype=np.int64), mesh)
    left = cut.ties
    for name, count in zip(own, found.tolist(), strict=True):
        if left <= 0:
            break
        places = at[name]
        if count > left:
            numbers = parts[name].numbers(places)
            last = _last_kept(numbers.cpu().numpy(), left, parts[name], mesh)
            places = places[numbers <= last]
        masks[name].view(-1)[places] = True
        left -= count


def _at(scores: Tensor, cut: _cut.Cut) -> Tensor:
    """The flat indices of the scores whose key is that of the cut."""
    found, begin = [], 0
    for part in _radix.parts(scores, cut.dtype):
        ties = _radix.signed_keys(part) == _radix.signed(cut.threshold, cut.dtype)
        found.append(ties.nonzero().flatten() + begin)
        begin += part.numel()
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=scores.device)


def _last_kept(numbers: np.ndarray, keep: int, part: Part, mesh: Any) -> int:
    """The `keep`-th lowest of the numbers of all processes, digit by digit from the highest."""
    size = 1
    for length in part.whole:
        size *= length
    prefix, need = 0, keep
    for shift in range((max(1, size.bit_length()) - 1) // DIGIT_BITS * DIGIT_BITS, -1, -DIGIT_BITS):
        here = numbers[(numbers >> (shift + DIGIT_BITS)) == prefix] if part.counted else numbers[:0]
        counts = _summed(np.bincount((here >> shift) & (DIGITS - 1), minlength=DIGITS).astype(np.int64), mesh)
        sums = np.cumsum(counts)
        digit = int(np.searchsorted(sums, need))
        need -= int(sums[digit]) - int(counts[digit])
        prefix = (prefix << DIGIT_BITS) | digit
    return prefix


def _summed(counts: Counts, mesh: Any) -> Counts:
    return shards.summed(torch.from_numpy(counts), mesh).numpy()
