"""Evidence from training itself: collectors that live as long as their Pruner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import ScoreError
from secateur.measures import Evidence, Measure, Params, Probe


class Online:
    """Temporary: one step's evidence."""

    def __init__(self, measures: Iterable[Measure], params: Params) -> None:
        self._measures = tuple(measures)
        self._params = params
        self._grads: Mapping[str, Tensor] = {}

    def wants_gradients(self, *, milestone: bool) -> bool:
        return milestone and any(measure.online for measure in self._measures)

    def update(self, network: nn.Module, grads: Mapping[str, Tensor], generator: Any, *, milestone: bool) -> None:
        self._grads = grads

    def compute(self, measures: Iterable[Measure], network: nn.Module, generator: torch.Generator | None):
        found: dict[str, Evidence] = {}
        for measure in measures:
            if measure.online:
                missing = [name for name in self._params if name not in self._grads]
                if missing:
                    raise ScoreError(f"no gradient reached {missing[0]!r}")
            collector = measure.begin(self._params)
            collector.update(
                Probe(network, self._params, None, F.cross_entropy, generator, given_grads=dict(self._grads))
            )
            found[measure.name] = collector.compute()
        return found

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass
