"""k-means, exact where there are as many centres as points."""

from __future__ import annotations

import torch
from torch import Tensor


def k_means(points: Tensor, count: int, generator: torch.Generator, *, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """Group points [N, d] about `count` centres: the centres [count, d] in float64, and the number of each point's.

    Lloyd's algorithm from k-means++ seeds, drawn on the CPU. A centre that loses all its points goes to the one that
    is farthest from its own. With `count` = N each point is its own centre.
    """
    points = points.detach().double()
    if count >= len(points):
        return points.clone(), torch.arange(len(points), device=points.device)
    centres = _seeds(points, count, generator)
    nearest = _nearest(points, centres)[1]
    for _ in range(rounds):
        centres = _means(points, nearest, centres)
        moved = _nearest(points, centres)[1]
        if torch.equal(moved, nearest):
            break
        nearest = moved
    return _means(points, nearest, centres), nearest


def _seeds(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        weights = distance.cpu() if float(distance.sum()) > 0 else torch.ones(len(points), dtype=torch.float64)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    apart = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
    near = apart.min(1)
    return near.values, near.indices


def _means(points: Tensor, nearest: Tensor, centres: Tensor) -> Tensor:
    sums = torch.zeros_like(centres).index_add_(0, nearest, points)
    counts = torch.bincount(nearest, minlength=len(centres))
    found = sums / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        far = (points - found[nearest]).square().sum(1).topk(len(empty)).indices
        found[empty] = points[far]
    return found
