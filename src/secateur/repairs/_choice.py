"""Scores that are a layer's whole solve: SparseGPT's choice inside its sweep, OBC's greedy order, L-OBS's ranking.

Each is a value (a frozen dataclass), called with a layer's `weight`, its `rows` as the network multiplies them, and the
`gram` matrix of its inputs; each returns one number per entry of `rows`, which says what the solve would keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.repairs._exact import Trace, exact_removal
from secateur.repairs._second_moments import damped, inverse_of
from secateur.repairs._solve import channels_last, groups
from secateur.repairs._sweep import column_sweep, inverse_factor
from secateur.repairs._written import Known
from secateur.selection import kept_count

#: (rows, G) of a group → one number per entry of its rows.
Solve = Callable[[Tensor, Tensor], Tensor]

_MARGIN = 1.15  # how much higher the guess of a level is put than a sample of the rows says


@dataclass(frozen=True)
class Swept:
    """Keep what the column sweep keeps when it chooses on the way: the score of SparseGPT.

    Above 1 for what is kept and below it for what is cut; within either part by w_ij² G_jj.

    Attributes:
        density: ρ of each layer.
        pattern: (N, M) instead of a density.
        block: columns that choose together.
        damping: λ as a share of the mean of the diagonal of G.
        known: where the solutions of the layers are left for the repair `sweep(known=…)`.
    """

    density: float
    pattern: tuple[int, int] | None = None
    block: int = 128
    damping: float = 0.01
    known: Known = field(default_factory=Known, compare=False, repr=False)

    def __call__(self, weight: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
        """Sweep one layer."""
        order = _order(weight, rows, self.pattern)
        return _turned(order, rows, gram, self._part)

    def _part(self, rows: Tensor, gram: Tensor) -> Tensor:
        moments, dead = damped(gram, self.damping)
        living = rows.masked_fill(dead, 0)
        solution, kept = column_sweep(
            living, inverse_factor(moments), density=self.density, pattern=self.pattern, block=self.block
        )
        self.known.keep(rows, gram, kept, solution)
        worth = living.double().square() * moments.diagonal()
        return kept + worth / (worth + worth.mean().clamp(min=torch.finfo(worth.dtype).tiny))


@dataclass(frozen=True)
class OneByOne:
    """½ w_q²/[G⁻¹]_qq: what removing one weight costs when all others of its row make up for it; the score of L-OBS.

    Attributes:
        damping: λ as a share of the mean of the diagonal of G.
    """

    damping: float = 1e-6

    def __call__(self, weight: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
        """Score one layer."""
        return _turned(None, rows, gram, self._part)

    def _part(self, rows: Tensor, gram: Tensor) -> Tensor:
        moments, dead = damped(gram, self.damping)
        return rows.masked_fill(dead, 0).double().square() / (2 * inverse_of(moments).diagonal())


@dataclass(frozen=True)
class Greedy:
    """The level at which each weight goes when the cheapest of its row always goes next: the score of OBC.

    A weight's level is the highest ½ w_p²/[H⁻¹]_pp among its own removal and those before it in its row, so that the
    κ highest levels of a layer are a state that every row passes through.

    Attributes:
        density: ρ of each layer: rows are followed as far as this takes; None: to the end.
        pattern: (N, M): each group of M inputs ends with N.
        damping: λ as a share of the mean of the diagonal of G.
    """

    density: float | None
    pattern: tuple[int, int] | None = None
    damping: float = 0.01

    def __call__(self, weight: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
        """Follow the rows of one layer."""
        order = _order(weight, rows, self.pattern)
        # Groups have inputs of their own: only at the end of all rows can they be compared.
        follow = replace(self, density=None) if gram.dim() == 3 else self
        return _turned(order, rows, gram, follow._part)

    def _part(self, rows: Tensor, gram: Tensor) -> Tensor:
        moments, dead = damped(gram, self.damping)
        living = rows.masked_fill(dead, 0)
        inputs = rows.shape[1]
        if self.pattern is not None:
            gone = inputs * (self.pattern[1] - self.pattern[0]) // self.pattern[1]
            left, kept, trace = exact_removal(living, moments, gone, pattern=self.pattern)
        elif self.density is None:
            left, kept, trace = exact_removal(living, moments, inputs)
        else:
            cut = rows.numel() - kept_count(self.density, rows.numel())
            left, kept, trace = _until_enough(living, moments, cut)
        return levels_of(trace, kept, left.double().square() * moments.diagonal())


def _until_enough(rows: Tensor, moments: Tensor, cut: int) -> tuple[Tensor, Tensor, Trace]:
    """Follow every row up to a level at which the layer loses `cut` weights or more: guessed from a sample of rows."""
    outputs, inputs = rows.shape
    if cut == 0:
        return exact_removal(rows, moments, 0)
    sample = rows[:: max(1, outputs // 32)]
    share = cut / rows.numel()
    depth = min(inputs, math.ceil(1.3 * share * inputs))
    levels = exact_removal(sample, moments, depth)[2].losses.cummax(1).values.flatten()
    level = float(levels.sort().values[min(len(levels), math.ceil(share * sample.numel())) - 1])
    while True:
        level = _MARGIN * level + torch.finfo(torch.float64).tiny
        found = exact_removal(rows, moments, inputs, until=level)
        if int((found[2].losses < torch.inf).sum()) >= cut:
            return found


def levels_of(trace: Trace, kept: Tensor, worth: Tensor) -> Tensor:
    """One number per weight: its level where it went, and more than any level where it stayed."""
    levels = trace.losses.cummax(1).values
    went = trace.order >= 0
    for step in range(1, levels.shape[1]):  # strictly rising in each row, so that a row's own order is kept
        least = torch.nextafter(levels[:, step - 1], torch.full_like(levels[:, 0], torch.inf))
        levels[:, step] = torch.maximum(levels[:, step], least)
    top = float(levels[went].max()) if bool(went.any()) else 0.0
    found = top * 2 + 1 + worth
    rows = went.nonzero()[:, 0]
    found[rows, trace.order[went]] = levels[went]
    return found


def _order(weight: Tensor, rows: Tensor, pattern: tuple[int, int] | None) -> Tensor | None:
    """The columns in the order in which a pattern's consecutive inputs are consecutive channels."""
    if pattern is None or weight.dim() == 2:
        return None
    order = channels_last(rows.shape[1], weight.shape[2:], rows.device)
    channels = weight.shape[1]
    if channels % pattern[1]:
        raise SecateurError(
            f"{pattern[0]}:{pattern[1]} needs a number of input channels divisible by {pattern[1]}, got {channels}. "
            "Leave the tensor out with `only=`."
        )
    return order


def _turned(order: Tensor | None, rows: Tensor, gram: Tensor, solve: Solve) -> Tensor:
    """Solve group by group, with the columns in another order, and bring the result back."""
    if order is None:
        return torch.cat([solve(*part) for part in groups(rows, gram)])
    found = torch.cat([solve(part[:, order], own[order][:, order]) for part, own in groups(rows, gram)])
    back = torch.empty_like(found)
    back[:, order] = found
    return back
