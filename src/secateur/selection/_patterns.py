"""Few patterns for many rows: each row keeps as many entries, and rows share which."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Shaped
from secateur.selection._choose import topk_rows


def few_patterns(
    scores: Shaped[Tensor, "rows entries"],
    keep: int,
    patterns: int,
    *,
    alive: Bool[Tensor, "rows entries"] | None = None,
    name: str = "scores",
) -> Bool[Tensor, "rows entries"]:
    """Keep `keep` scores of every row, by at most so many different patterns over all rows; True is kept.

    Each row's own best pattern is its `keep` highest scores. The patterns that are best for most rows make the
    dictionary (of equally frequent ones, that of the earliest row). A row whose own is in it keeps that; another gets
    the pattern p of the dictionary with the largest Σ s ⊙ p, of equal ones the more frequent.

    Args:
        scores: real and finite; higher means keep.
        keep: how many stay in each row, in [1, entries].
        patterns: how many there may be, at least 1. As many as there are rows: each row keeps its best.
        alive: entries that may stay, None: all. Where rows are alive in more than `patterns` ways, no pattern may lie
            within what a row has left: it then gets one that loses least of its entries, and keeps fewer than `keep`.
        name: what to call the scores in an error.

    Raises:
        ScoreError: NaN or infinite scores, or a tensor that cannot be ranked.
        SecateurError: `keep` or `patterns` out of range.

    >>> few_patterns(torch.tensor([[3.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 5.0, 5.5]]), 2, 1).tolist()
    [[True, True, False], [True, True, False], [True, True, False]]
    """
    if patterns < 1:
        raise SecateurError(f"`patterns` must be at least 1, got {patterns}: it is how many may be used in one layer.")
    if keep < 1:
        raise SecateurError(f"`keep` must be at least 1 entry of each row, got {keep}.")
    own = topk_rows(scores, keep, name=name)
    if not len(own):
        return own
    may = torch.ones_like(own) if alive is None else alive
    codes, first, counts = _distinct(own)
    kept = _dictionary(codes, counts, None if alive is None else _distinct(alive)[0], patterns)
    words = own[first[kept]].double()  # [pattern, entry]
    worth = torch.where(may, scores.detach().double(), 0.0) @ words.T
    dead = (~may).double() @ words.T
    worth = torch.where(dead == dead.amin(1, keepdim=True), worth, -torch.inf)
    best = own[first[kept]][worth.argmax(1)]
    return torch.where(torch.isin(codes, kept)[:, None], own, best) & may


def _dictionary(codes: Tensor, counts: Tensor, alive: Tensor | None, patterns: int) -> Tensor:
    """The numbers of the patterns that are used: the most frequent, but one at least that fits each way to be alive.

    So that patterns may shrink round by round: what shared a pattern before has one in common afterwards.
    """
    order = counts.argsort(descending=True, stable=True)
    chosen: list[int] = []
    ways = 0 if alive is None else int(alive.max()) + 1
    if alive is not None and 1 < ways <= patterns:
        for way in range(ways):
            of_way = torch.bincount(codes[alive == way], minlength=len(counts))
            chosen.append(int(of_way.argmax()))
    fill = [number for number in order[: patterns + len(chosen)].tolist() if number not in chosen]
    chosen = list(dict.fromkeys(chosen))
    picked = torch.tensor((chosen + fill)[:patterns], device=codes.device)
    return picked[counts[picked].argsort(descending=True, stable=True)]


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The number of each row's pattern, in the order of first use; where each is first used, and how often."""
    codes = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for part in rows.split(31, dim=1):
        powers = 1 << torch.arange(part.shape[1], device=rows.device)
        codes = torch.unique((codes << 31) | (part * powers).sum(1), return_inverse=True)[1]
    counts = torch.bincount(codes)
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(counts, len(rows)).scatter_reduce_(0, codes, places, "amin")
    order = first.argsort()
    return order.argsort()[codes], first[order], counts[order]
