"""Gradients kept one by one, for inverses of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from secateur._base.errors import SecateurError
from secateur.curvature._samples import per_sample, samples_in
from secateur.measures import (
    Collector,
    Evidence,
    Level,
    Measure,
    Params,
    Probe,
    Running,
    from_all_ranks,
)

__all__ = ["snapshots"]


@dataclass(frozen=True)
class _Begin:
    """Begins a collector; two alike are equal."""

    group: int
    most: int | None

    def __call__(self, params: Params) -> Collector:
        return _Snapshots(params, self.group, self.most)


class _Snapshots(Running):
    """One row for each gradient."""

    def __init__(self, params: Params, group: int, most: int | None) -> None:
        super().__init__(params)
        self._group, self._most = group, most
        self._rows: dict[str, list[Tensor]] = {}

    def update(self, probe: Probe) -> None:
        if self._group == 1:
            for grads in per_sample(probe):
                self._take(grads)
            return
        for first in range(0, samples_in(probe.batch), self._group):
            part = tree_map(
                lambda leaf, first=first: leaf[first : first + self._group] if isinstance(leaf, Tensor) else leaf,
                probe.batch,
            )
            some = replace(probe, batch=part, _grads=None, _grads_owned=False)
            self._take({name: grad.detach()[None] for name, grad in some.grads.items()})

    def _take(self, grads: Mapping[str, Tensor]) -> None:
        for name, grad in grads.items():
            kept = self._rows.setdefault(name, [])
            room = len(grad) if self._most is None else max(0, self._most - sum(map(len, kept)))
            if room:
                kept.append(grad[:room])

    def compute(self) -> Evidence:
        return {name: from_all_ranks(torch.cat(rows)) for name, rows in self._rows.items()}


def snapshots(*, group: int = 1, most: int | None = None) -> Measure:
    """The gradients themselves, g_1 … g_N, one after the other: (N, *shape) of each weight, in the weight's type.

    Memory: N numbers for each weight. For F = λI + (1/N) Σ g gᵀ and its inverse without ever forming it.

    Args:
        group: gradients are of the mean loss of so many samples of a batch; 1: of each sample. Averages of B samples
            make F about B times smaller, so that λ means something else.
        most: N at most, on each rank; None: all samples of the batches.

    Source: Singh & Alistarh, "WoodFisher", arXiv 2004.14340, §3; the outer products of Hassibi & Stork, 1992.
    """
    if group < 1 or (most is not None and most < 1):
        raise SecateurError(f"`group` and `most` must be at least 1, got {group} and {most}.")
    return Measure("snapshots", _Begin(group, most), level=Level.LAYER, train=False, reduction=None)
