"""Evidence from training itself, for a Pruner that was given no batches of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.axes import Method
from secateur.measures import Evidence, Measure, Needs, Observer, Params, reduced


class Training:
    """What a method measures while a network trains: an `Observer`, and the question which gradients it wants."""

    def __init__(self, network: nn.Module, method: Method, params: Params, generator: torch.Generator | None) -> None:
        self._network = network
        self._params = params
        self._generator = generator
        begins = None if method.regrow is None else method.regrow.start  # its own evidence, once: see `start`
        scores = [score for score in method.scores if score is not begins]
        self._measures = tuple(measure for score in scores for _, measure in score.measures)
        self._observer = Observer(network, self._measures, params=params, generator=generator)

    @property
    def remembers(self) -> bool:
        """Whether some evidence adds up over the steps."""
        return self._observer.remembers

    def wants_gradients(self, *, milestone: bool) -> bool:
        """Whether the coming step's dense gradients will be looked at: at a milestone, or at every step."""
        of_gradients = any(measure.needs is Needs.LABELS for measure in self._measures)
        return self.remembers or (milestone and of_gradients)

    def update(self, grads: Mapping[str, Tensor]) -> None:
        """Take in one training step."""
        self._observer.update(grads)

    def compute(self, grads: Mapping[str, Tensor]) -> dict[str, Evidence]:
        """The evidence of this step, of all ranks together."""
        return self._of_all_ranks(self._observer.compute(grads), self._measures)

    def start(self, measures: tuple[Measure, ...]) -> dict[str, Evidence]:
        """The evidence of a score that needs no training yet, before the first step."""
        observer = Observer(self._network, measures, params=self._params, generator=self._generator)
        return self._of_all_ranks(observer.compute({}), measures)

    def state_dict(self) -> dict[str, Any]:
        """The running evidence, where some outlives a step."""
        return self._observer.state_dict() if self._observer.remembers else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; an empty one is that of a method without running evidence."""
        if state or self._observer.remembers:
            self._observer.load_state_dict(state)

    def _of_all_ranks(self, found: dict[str, Evidence], measures: tuple[Measure, ...]) -> dict[str, Evidence]:
        # Gradients are seen before DistributedDataParallel averages them.
        return found | {
            measure.name: reduced(found[measure.name], measure.reduction) for measure in dict.fromkeys(measures)
        }
