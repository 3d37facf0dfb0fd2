"""Exact removal, one weight at a time: the best next one of each row, and all others made up for it (OBS by rows)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur._base.types import Bool, Float

_AT_ONCE = 1 << 25  # numbers of inverses that are held at once


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
) -> tuple[Float[Tensor, "out in"], Bool[Tensor, "out in"], Trace]:
    """Remove weights of each row one by one: always the cheapest, after which all that are left make up for it.

    p = argmin w_p²/[H⁻¹]_pp;  w ← w − (w_p/[H⁻¹]_pp)·H⁻¹_:p;  H⁻¹ ← H⁻¹ − H⁻¹_:p H⁻¹_p:/[H⁻¹]_pp.

    Args:
        weight: one row per output.
        moments: G of the layer's inputs, positive definite (`damped`).
        counts: how many weights go, of each row or of all alike.
        deflate: whether H⁻¹ loses the removed row and column; without, later removals know nothing of earlier ones.

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
    inverse = torch.linalg.inv(moments.double())
    rows = max(1, _AT_ONCE // (inputs * inputs))
    found, kept, orders, losses = [], [], [], []
    for first in range(0, outputs, rows):
        part = slice(first, first + rows)
        one = _Rows(weight[part].double(), inverse, deflate)
        one.remove(wanted[part].to(weight.device))
        found.append(one.weight * one.alive)
        kept.append(one.alive)
        orders.append(one.order(inputs))
        losses.append(one.losses(inputs))
    width = int(wanted.max()) if outputs else 0
    trace = Trace(torch.cat(orders)[:, :width], torch.cat(losses)[:, :width])
    return torch.cat(found).to(weight.dtype), torch.cat(kept), trace


class _Rows:
    """A few rows on their way, each with an inverse of its own."""

    def __init__(self, weight: Tensor, inverse: Tensor, deflate: bool) -> None:
        self.weight = weight.clone()
        self.alive = torch.ones_like(weight, dtype=torch.bool)
        self._deflate = deflate
        self._inverse = inverse.expand(len(weight), *inverse.shape)
        if deflate:
            self._inverse = self._inverse.clone()
        self._order: list[Tensor] = []
        self._losses: list[Tensor] = []

    def remove(self, counts: Tensor) -> None:
        every = torch.arange(len(self.weight), device=self.weight.device)
        for step in range(int(counts.max()) if len(counts) else 0):
            going = step < counts
            diagonal = self._inverse.diagonal(dim1=1, dim2=2)
            cost = torch.where(self.alive, self.weight.square() / diagonal, torch.inf)
            best = cost.argmin(1)
            self._order.append(torch.where(going, best, -1))
            self._losses.append(torch.where(going, cost[every, best] / 2, torch.inf))
            column = self._inverse[every, :, best]
            share = torch.where(going, self.weight[every, best] / diagonal[every, best], 0.0)
            self.weight = torch.where(self.alive, self.weight - share[:, None] * column, self.weight)
            if self._deflate:
                scaled = torch.where(going, 1 / diagonal[every, best], 0.0)
                self._inverse = self._inverse - scaled[:, None, None] * column[:, :, None] * column[:, None, :]
            self.alive[every[going], best[going]] = False

    def order(self, inputs: int) -> Tensor:
        return _padded(self._order, len(self.weight), inputs, -1, torch.int64, self.weight.device)

    def losses(self, inputs: int) -> Tensor:
        return _padded(self._losses, len(self.weight), inputs, torch.inf, torch.float64, self.weight.device)


def _padded(
    steps: list[Tensor], rows: int, inputs: int, value: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Steps side by side, and nothing where a row had ended."""
    whole = torch.full((rows, inputs), value, dtype=dtype, device=device)
    for step, values in enumerate(steps):
        whole[:, step] = values
    return whole
