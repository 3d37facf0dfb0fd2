"""Batches of new data with old examples mixed in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from secateur._base.errors import SecateurError

Pair = tuple[Tensor, Tensor]


class Rehearsal:
    """New batches, each joined by so many old examples that these are a share r of it: n·r/(1 − r) to n new ones.

    It may be gone through again and again; the old examples are drawn anew each time, without replacement within a
    batch where there are enough of them.
    """

    def __init__(self, new: Sequence[Pair], old: Sequence[Pair], share: float, generator: torch.Generator) -> None:
        if not len(new):
            raise SecateurError("`new` must have at least one batch (inputs, targets), got none.")
        if not 0 <= share < 1:
            raise SecateurError(f"`rehearsal` must be the share of old examples in a batch, in [0, 1), got {share}.")
        if share and not len(old):
            raise SecateurError(f"`rehearsal`={share:g} asks for old examples, and `old` has none.")
        self.new, self.old, self.share, self.generator = new, old, share, generator
        self.ends = torch.tensor([len(targets) for _, targets in old]).cumsum(0)

    def __len__(self) -> int:
        return len(self.new)

    def __iter__(self) -> Iterator[Pair]:
        for inputs, targets in self.new:
            count = math.floor(len(targets) * self.share / (1 - self.share) + 0.5)
            more = [self._old(int(index)) for index in self._draw(count)]
            yield (
                torch.cat([inputs, *(x.to(inputs)[None] for x, _ in more)]),
                torch.cat([targets, *(y.to(targets)[None] for _, y in more)]),
            )

    def _draw(self, count: int) -> Tensor:
        total = int(self.ends[-1]) if len(self.ends) else 0
        if count <= total:
            return torch.randperm(total, generator=self.generator)[:count]
        return torch.randint(total, (count,), generator=self.generator)

    def _old(self, index: int) -> Pair:
        batch = int(torch.searchsorted(self.ends, index, right=True))
        inputs, targets = self.old[batch]
        row = index - (int(self.ends[batch - 1]) if batch else 0)
        return inputs[row], targets[row]
