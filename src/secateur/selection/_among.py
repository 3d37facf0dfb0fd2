"""Scores of which only some may be chosen, and a choice that need not rank them where all of those stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from secateur._base.zeros import count_true
from secateur.selection._choose import topk_mask
from secateur.selection._chosen import Chosen


class Among(Mapping[str, Tensor]):
    """Scores of which only those of the living may be chosen: the others are the lowest, once somebody looks."""

    def __init__(self, scores: Mapping[str, Tensor], alive: Mapping[str, Tensor]) -> None:
        self.scores, self.alive = scores, alive
        self._found: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._found:
            scores = self.scores[name]
            self._found[name] = torch.where(self.alive[name], scores, torch.finfo(scores.dtype).min)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


def sizes_of(scores: Mapping[str, Tensor]) -> dict[str, int]:
    """How many units each layer has, living and dead."""
    return {name: tensor.numel() for name, tensor in (scores.scores if isinstance(scores, Among) else scores).items()}


def best_of_one(name: str, scores: Mapping[str, Tensor], count: int) -> Chosen:
    """The `count` highest scores of one layer, by `topk_mask`."""
    # Methods that move weights keep their number: all the living are chosen then, and need not be ranked.
    if isinstance(scores, Among) and 0 < count == count_true(alive := scores.alive[name]):
        lowest, highest = scores.scores[name].aminmax()
        if math.isfinite(lowest) and math.isfinite(highest):
            return Chosen({name: alive})
    return topk_mask({name: scores[name]}, count)
