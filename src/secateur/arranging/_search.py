"""The search for an order of columns in which the N largest of every M consecutive ones add up to more."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Float

_AT_ONCE = 1 << 22  # numbers that are compared at once


def kept_by(worth: Float[Tensor, "row column"], n: int, m: int) -> float:
    """Σ over rows and groups of M consecutive columns of the N largest.

    >>> kept_by(torch.tensor([[4.0, 3.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0]]), 2, 4)
    11.0
    """
    return float(worth.unflatten(1, (-1, m)).topk(n, dim=2).values.sum(dtype=torch.float64))


def order_for(
    worth: Float[Tensor, "row column"], n: int, m: int, *, rounds: int = 100, generator: torch.Generator | None = None
) -> Tensor:
    """An order of the columns in which `kept_by` is higher, or as high: swaps between groups, the best of each pair.

    In each round the groups are paired at random; each pair makes the one swap of two columns that gains most, if any
    does. So the sum never falls. M² swaps are tried for each of C/2M pairs, a round costs R·C·M²/2.

    Args:
        worth: what is kept or not, at least 0: (rows, C), C a multiple of M.
        n: N.
        m: M.
        rounds: how often.
        generator: pairs the groups; by default a fresh one seeded 0.

    Source: Pool & Yu, "Channel permutations for N:M sparsity", NeurIPS 2021, §3, as greedy swaps.
    """
    columns = worth.shape[1]
    if not 0 < n <= m or columns % m:
        raise SecateurError(f"N:M needs 0 < N ≤ M and columns divisible by M, got {n}:{m} of {columns} columns.")
    drawn = generator if generator is not None else torch.Generator().manual_seed(0)
    groups = torch.arange(columns, device=worth.device).reshape(-1, m)
    for _ in range(rounds if len(groups) > 1 else 0):
        pairs = torch.randperm(len(groups), generator=drawn, device=drawn.device)[: len(groups) // 2 * 2]
        left, right = pairs.to(worth.device).reshape(2, -1)
        gains = _gains(worth, groups[left], groups[right], n)
        best, place = gains.flatten(1).max(1)
        swap = best > 1e-9 * float(gains.abs().max() + 1e-30)
        a, b = left[swap], right[swap]
        i, j = place[swap] // m, place[swap] % m
        groups[a, i], groups[b, j] = groups[b, j].clone(), groups[a, i].clone()
    return groups.flatten()


def _gains(worth: Tensor, left: Tensor, right: Tensor, n: int) -> Tensor:
    """What each swap of the i-th column of a left group with the j-th of its right one would add: (pairs, M, M)."""
    pairs, m = left.shape
    here = torch.eye(m, dtype=torch.bool, device=worth.device)
    total = worth.new_zeros((pairs, m, m), dtype=torch.float64)
    for part in worth.split(max(1, _AT_ONCE // (pairs * m**3))):
        a, b = part[:, left], part[:, right]  # (rows, pairs, M)
        swapped_a = torch.where(here[:, None], b[:, :, None, :, None], a[:, :, None, None, :])  # i, j, k
        swapped_b = torch.where(here[None], a[:, :, :, None, None], b[:, :, None, None, :])
        after = swapped_a.topk(n, dim=4).values.sum(4) + swapped_b.topk(n, dim=4).values.sum(4)
        before = a.topk(n, dim=2).values.sum(2) + b.topk(n, dim=2).values.sum(2)
        total += (after - before[:, :, None, None]).sum(0, dtype=torch.float64)
    return total
