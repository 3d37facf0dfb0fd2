"""The parts of the lottery study that need no data: subset sums, the gadget made of them, and gaps over width."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from secateur import methods

Line = dict[str, Any]


def subset_sum(seed: int, _: int) -> Iterator[Line]:
    """The 95 % quantile over targets of the best subset's error, for n uniform numbers, exactly."""
    g = torch.Generator().manual_seed(seed)
    draws = 400
    for n in range(4, 21):
        numbers = 2 * torch.rand(draws, n, generator=g, dtype=torch.float64) - 1
        targets = torch.rand(draws, generator=g, dtype=torch.float64) - 0.5
        half = n // 2
        left, right = (_sums(part) for part in (numbers[:, :half], numbers[:, half:]))
        right = right.sort(1).values
        wanted = targets[:, None] - left
        place = torch.searchsorted(right.contiguous(), wanted.contiguous()).clamp(1, right.shape[1] - 1)
        near = torch.minimum((right.gather(1, place) - wanted).abs(), (right.gather(1, place - 1) - wanted).abs())
        errors = near.min(1).values
        yield {"n": n, "error": float(errors.quantile(0.95))}


def _sums(numbers: Tensor) -> Tensor:
    """All subsets' sums, [draws, 2^n]."""
    found = numbers.new_zeros(len(numbers), 1)
    for k in range(numbers.shape[1]):
        found = torch.cat([found, found + numbers[:, k : k + 1]], 1)
    return found


def gadget(seed: int, _: int) -> Iterator[Line]:
    """Σ_i s_i a_i σ(b_i x) for w·x, s by subset sum over the b_i > 0 and over the b_i < 0: the sup norm on a grid.

    `bound` follows from the largest error ε of a weight: on |x| ≤ 1 a hidden unit is off by 4ε at most, and an output
    by Σ_j (|v_j| + ε)·4ε + ε Σ_j h_j.
    """
    g = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(s, generator=g, dtype=torch.float64) - 0.5 for s in ((6, 4), (2, 6)))
    x = torch.cartesian_prod(*[torch.linspace(-1, 1, 9, dtype=torch.float64)] * 4)
    for n in (6, 8, 10, 12, 14, 16):
        ups, downs, outs = (_by_products(w.flatten(), n, g).reshape(w.shape) for w in (first, first, second))
        hidden = (x.clamp(min=0) @ ups.T - (-x).clamp(min=0) @ downs.T).clamp(min=0)
        true = (x @ first.T).clamp(min=0)
        gap = (hidden @ outs.T - true @ second.T).abs().max()
        off = max(float((one - two).abs().max()) for one, two in ((ups, first), (downs, first), (outs, second)))
        bound = ((second.abs() + off).sum(1) * 4 * off + off * true.sum(1).max()).max()
        yield {"n": n, "gap": float(gap), "bound": float(bound)}


def _by_products(wanted: Tensor, n: int, g: torch.Generator) -> Tensor:
    """The nearest sum of a subset of n products of uniform numbers, for each weight its own products."""
    draws = [2 * torch.rand(len(wanted), n, generator=g, dtype=torch.float64) - 1 for _ in range(2)]
    sums = _sums(draws[0] * draws[1].abs())
    return sums.gather(1, (sums - wanted[:, None]).abs().argmin(1, keepdim=True))[:, 0]


def width(seed: int, _: int) -> Iterator[Line]:
    """A network of weights N(0, 2/d), a share d^(−½) of which is cut at random: the relative gap of its outputs."""
    for d in (32, 64, 128, 256, 512, 1024, 2048):
        torch.manual_seed(seed)
        target = nn.Sequential(nn.Linear(d, d, bias=False), nn.ReLU(), nn.Linear(d, d, bias=False), nn.ReLU())
        target.append(nn.Linear(d, 10, bias=False))
        for layer in target:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / d))
        pruned, g = copy.deepcopy(target), torch.Generator().manual_seed(seed + 1)
        sc.prune(pruned, methods.random(1 - d**-0.5, scope=sc.scope.layerwise()), generator=g)
        x = torch.randn(200, d, generator=g)
        with torch.no_grad():
            gap = (pruned(x) - target(x)).norm() / target(x).norm()
        yield {"width": d, "gap": float(gap)}
