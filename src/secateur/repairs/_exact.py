"""Exact removal, one weight at a time: the best next one of each row, and all others made up for it (OBS by rows)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Float
from secateur.measures import at_least_float32
from secateur.repairs._second_moments import inverse_of

_AT_ONCE = 1 << 25  # numbers of the rows' own inverses that are held at once
_BLOCK = 128  # removals after which they are taken out of the rows' own inverses, in one product


@dataclass(frozen=True, eq=False)
class Trace:
    """How each row of a layer loses its weights one after the other.

    Attributes:
        order: the inputs of each row in the order in which they go, (out, removed).
        losses: ½ w_p²/[H⁻¹]_pp of each removal with H = G: the exact rise of ½‖δX‖², (out, removed); float64.
    """

    order: Tensor
    losses: Tensor

    def counts(self, cut: int) -> Tensor:
        """How many weights each row loses, if the `cut` cheapest removals of the layer are made: (out,) numbers.

        A row's removals come in their order: its losses count as the running maximum of those before.
        """
        if not 0 <= cut <= int((self.losses < torch.inf).sum()):
            raise SecateurError(f"`cut` must be in 0 … {int((self.losses < torch.inf).sum())}, got {cut}.")
        levels = self.losses.cummax(1).values
        chosen = levels.flatten().argsort(stable=True)[:cut]
        return torch.bincount(chosen // self.losses.shape[1], minlength=len(self.losses))


def exact_removal(
    weight: Float[Tensor, "out in"],
    moments: Float[Tensor, "in in"],
    counts: Tensor | int,
    *,
    deflate: bool = True,
    until: float = torch.inf,
    pattern: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "out in"], Bool[Tensor, "out in"], Trace]:
    """Remove weights of each row one by one: always the cheapest, after which all that are left make up for it.

    p = argmin w_p²/[H⁻¹]_pp;  w ← w − (w_p/[H⁻¹]_pp)·H⁻¹_:p;  H⁻¹ ← H⁻¹ − H⁻¹_:p H⁻¹_p:/[H⁻¹]_pp.

    H⁻¹ is made in float64; each row's own is held, and its weights kept, in the type of `weight`, float32 at least.

    Args:
        weight: one row per output.
        moments: G of the layer's inputs, positive definite (`damped`).
        counts: how many weights go, of each row or of all alike.
        deflate: whether H⁻¹ loses the removed row and column; without, later removals know nothing of earlier ones.
        until: a row ends before the first removal whose loss would be higher.
        pattern: (N, M): no M consecutive inputs of a row lose more than M − N.

    Returns:
        The weights that are left, what stays, and the trace.

    Source: Hassibi & Stork 1992 (OBS); by rows: Frantar, Singh & Alistarh, arXiv 2208.11580, Algorithm 1.
    """
    outputs, inputs = weight.shape
    wanted = counts if isinstance(counts, Tensor) else torch.full((outputs,), counts)
    if outputs and not (wanted.shape == (outputs,) and int(wanted.min()) >= 0 and int(wanted.max()) <= inputs):
        raise SecateurError(
            f"`counts` must be one number in 0 … {inputs} for all rows, or one for each of the {outputs}, got {counts}."
        )
    if pattern is not None and not (0 < pattern[0] <= pattern[1] and inputs % pattern[1] == 0):
        raise SecateurError(f"`pattern` must be (N, M) with N ≤ M, M a divisor of the {inputs} inputs, got {pattern}.")
    exact = at_least_float32(weight)
    inverse = inverse_of(moments).to(exact.dtype)
    width = int(wanted.max()) if outputs else 0
    rows = max(1, _AT_ONCE // max(1, inputs * inputs))
    found, kept, orders, losses = [], [], [], []
    for first in range(0, outputs, rows):
        part = slice(first, first + rows)
        one = _Rows(exact[part], inverse, width, pattern)
        one.remove(wanted[part].to(weight.device), until, deflate)
        found.append(one.weight * one.alive)
        kept.append(one.alive)
        orders.append(one.order)
        losses.append(one.losses)
    trace = Trace(torch.cat(orders), torch.cat(losses))
    return torch.cat(found).to(weight.dtype), torch.cat(kept), trace


class _Rows:
    """A few rows on their way, each with an inverse of its own, less what went since the last block: H⁻¹ − Σ v vᵀ."""

    def __init__(self, weight: Tensor, inverse: Tensor, width: int, pattern: tuple[int, int] | None) -> None:
        rows, inputs = weight.shape
        self.weight = weight.clone()
        self.alive = torch.ones_like(weight, dtype=torch.bool)
        self.order = torch.full((rows, width), -1, dtype=torch.int64, device=weight.device)
        self.losses = torch.full((rows, width), torch.inf, dtype=torch.float64, device=weight.device)
        self._inverse, self._shared = inverse.expand(rows, inputs, inputs), True  # of one row it is no copy either
        self._diagonal = inverse.diagonal().repeat(rows, 1)
        self._lost = weight.new_zeros((rows, _BLOCK, inputs))
        self._pattern = pattern

    def remove(self, counts: Tensor, until: float, deflate: bool) -> None:
        every = torch.arange(len(self.weight), device=self.weight.device)
        ended = torch.zeros_like(every, dtype=torch.bool)
        for step in range(int(counts.max()) if len(counts) else 0):
            if deflate and step and step % _BLOCK == 0:
                self._take_out()
            cost = self.weight.square().div_(self._diagonal).masked_fill_(~self._may_go(), torch.inf)
            least, best = cost.min(1)
            ended |= ~((step < counts) & (least / 2 <= until) & (least < torch.inf))
            if bool(ended.all()):
                break
            self.order[:, step] = torch.where(ended, -1, best)
            self.losses[:, step] = torch.where(ended, torch.inf, least / 2)
            column, pivot = self._column(every, best, step % _BLOCK if deflate else 0), self._diagonal[every, best]
            share = torch.where(ended, 0.0, self.weight[every, best] / pivot)
            self.weight.addcmul_(share[:, None], column, value=-1)  # what has gone may move: nobody looks at it
            if deflate:
                self._lose(column * torch.where(ended, 0.0, pivot.rsqrt())[:, None], step % _BLOCK)
            self.alive[every[~ended], best[~ended]] = False

    def _column(self, every: Tensor, best: Tensor, lost: int) -> Tensor:
        """H⁻¹_:p of each row as it now is."""
        columns = self._inverse[every, best]
        if not lost:
            return columns
        past = self._lost[:, :lost]
        return columns.sub_((past[every, :, best][:, None] @ past)[:, 0])

    def _lose(self, scaled: Tensor, place: int) -> None:
        """H⁻¹ ← H⁻¹ − v vᵀ; the product itself is made for a whole block at once."""
        self._lost[:, place] = scaled
        self._diagonal.addcmul_(scaled, scaled, value=-1)

    def _take_out(self) -> None:
        own = self._inverse.clone(memory_format=torch.contiguous_format) if self._shared else self._inverse
        self._inverse, self._shared = own.baddbmm_(self._lost.mT, self._lost, alpha=-1), False

    def _may_go(self) -> Tensor:
        if self._pattern is None:
            return self.alive
        n, m = self._pattern
        groups = self.alive.unflatten(1, (-1, m))
        return (groups & (groups.sum(2, keepdim=True) > n)).flatten(1)


def released_removal(
    weight: Float[Tensor, "out in"], keep: Bool[Tensor, "out in"], moments: Float[Tensor, "in in"]
) -> Float[Tensor, "out in"]:
    """Remove given weights of each row, the cheapest first, with an H⁻¹ that knows of no removal (L-OBS as released).

    w ← w − (w_q/[H⁻¹]_qq)·H⁻¹_:q in ascending order of w_q²/[H⁻¹]_qq; what is removed is zeroed at the end.
    """
    inverse = inverse_of(moments)
    diagonal, found = inverse.diagonal(), weight.double().clone()
    cost = torch.where(keep, torch.inf, found.square() / diagonal)
    order, cut = cost.argsort(dim=1, stable=True), (~keep).sum(1)
    every = torch.arange(len(weight), device=weight.device)
    for step in range(int(cut.max()) if len(cut) else 0):
        best = order[:, step]
        share = torch.where(step < cut, found[every, best] / diagonal[best], 0.0)
        found -= share[:, None] * inverse[best]
    return (found * keep).to(weight.dtype)
