"""Norms of filters that leave out kernels of inputs that are gone already: the greedy order of L1 filter pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur._base.errors import SecateurError
from secateur.coupling import Coupling, trace
from secateur.masks import layouts
from secateur.measures import Level, Measure, Needs, Params, Probe, Running
from secateur.selection import kept_count, topk_mask


@dataclass(frozen=True)
class _Begin:
    """Begins a collector; two alike are equal."""

    keep: float

    def __call__(self, params: Params) -> _Norms:
        return _Norms(params, self.keep)


class _Norms(Running):
    """Groups of units in the model's order, each chosen before the next is looked at."""

    def __init__(self, params: Params, keep: float) -> None:
        super().__init__(params)
        self._keep = keep

    def update(self, probe: Probe) -> None:
        inputs = probe.inputs
        if isinstance(inputs, Mapping):
            found = trace(probe.model, kwargs={name: value for name, value in inputs.items() if name != "labels"})
        else:
            found = trace(probe.model, *(inputs if isinstance(inputs, tuple | list) else (inputs,)))
        self.fold(self._sweep(probe, found))

    def _sweep(self, probe: Probe, coupling: Coupling) -> dict[str, Tensor]:
        weights = {name: weight.double().abs() for name, weight in probe.weights.items()}
        makers = {n: e for e in reversed(coupling.entries) if not e.reads for n in e.names if n in weights}
        gone, found = np.zeros(coupling.count, bool), {}
        for group in coupling.groups:
            made = [name for name, e in makers.items() if np.isin(e.ids, group.units).any()]
            worth = np.zeros(coupling.count)
            for name in weights:
                if name in made and len(makers[name].ids) == weights[name].shape[makers[name].dim]:
                    norms = self._norms(name, weights[name], coupling, gone, makers[name].dim)
                    np.add.at(worth, makers[name].ids, norms.cpu().numpy())
                    found.setdefault(name, norms)
            if found.keys() & set(made):
                stays = topk_mask(
                    {group.name: torch.from_numpy(worth[group.units])}, kept_count(self._keep, len(group.units))
                )[group.name].numpy()
                gone[group.units[~stays]] = True
        turned = layouts(probe.model, self.params)
        for name, weight in weights.items():
            dim = makers[name].dim if name in makers else 1 if name in turned else 0
            found.setdefault(name, self._norms(name, weight, coupling, gone, dim))
        return found

    @staticmethod
    def _norms(name: str, weight: Tensor, coupling: Coupling, gone: np.ndarray, dim: int) -> Tensor:
        """Σ|w| of each output over the inputs that are left."""
        for entry in coupling.entries:
            if name in entry.names and entry.reads and len(entry.ids) == weight.shape[entry.dim]:
                stays = torch.from_numpy(~gone[entry.ids]).to(weight.device)
                weight = weight * stays.reshape([-1 if axis == entry.dim else 1 for axis in range(weight.dim())])
        return weight.movedim(dim, 0).flatten(1).sum(1)


def greedy_norms(*, keep: float) -> Measure:
    """L1 norms of filters, s_j = Σ|F_j| over the inputs that stay, when `keep` of each layer before have been chosen.

    Layers are chosen in the model's order, the largest norms of each; what is gone reads as zero in all layers that
    come after. One float64 per output unit. Only the shape of the inputs is used (the model is traced once).

    Args:
        keep: the fraction of each group of units that stays.

    Source: Li, Kadav, Durdanovic, Samet & Graf, arXiv 1608.08710, §3.3 (greedy).
    """
    if not 0 < keep <= 1:
        raise SecateurError(f"`keep` must be in (0, 1], got {keep}: the fraction of each layer's units that will stay.")
    return Measure("greedy_norms", _Begin(keep), needs=Needs.SHAPES, level=Level.UNIT, reduction=None)
