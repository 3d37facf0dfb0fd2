"""Where a Pruner's evidence comes from: the steps of training themselves, or batches that it was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.zeros import all_true
from secateur.axes import Method, Moment
from secateur.measures import Batch, Evidence, Loss, Measure, Memory, Needs, Observer, Params, gather, reduced


class Sources:
    """What a method is shown at a milestone: the evidence of training, or of batches that are run for it."""

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        params: Params,
        batches: Iterable[Batch] | None,
        loss: Loss | None,
        generator: torch.Generator | None,
    ) -> None:
        self._network, self._method, self._params = network, method, params
        self._batches, self._loss, self._generator = batches, loss, generator
        self._training = Training(network, method, params, generator) if batches is None else None

    @property
    def remember(self) -> bool:
        """Whether some evidence adds up over the steps of training."""
        return self._training is not None and self._training.remembers

    def want_gradients(self, *, milestone: bool) -> bool:
        """Whether the coming step's dense gradients will be looked at."""
        return self._training is not None and self._training.wants_gradients(milestone=milestone)

    def update(self, grads: Mapping[str, Tensor]) -> None:
        """Take in one training step."""
        if self._training is not None:
            self._training.update(grads)

    def at(self, moment: Moment, grads: Mapping[str, Tensor]) -> dict[str, Evidence]:
        """The evidence of a milestone, for the first choice that of the regrowth's start."""
        regrow = self._method.regrow
        untouched = all(all_true(bits) for bits in moment.alive.values())
        start = regrow.start if untouched and regrow is not None else None
        first = () if start is None else tuple(measure for _, measure in start.measures)
        if self._training is None:
            return self._gathered(first or self._method.measures)
        return self._training.start(first) if first else self._training.compute(grads)

    def given(self, moment: Moment) -> Moment:
        """The moment, with the batches to look at, where there are any."""
        return replace(moment, batches=self._batches, loss=self._loss)

    def for_repair(self) -> dict[str, Evidence]:
        """What the method's repair asks for, from batches."""
        measures = () if self._method.repair is None else self._method.repair.measures
        return self._gathered(measures) if measures else {}

    def state_dict(self) -> dict[str, Any]:
        """The running evidence, where there is some."""
        return {} if self._training is None else self._training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        if self._training is not None:
            self._training.load_state_dict(state)

    def _gathered(self, measures: Sequence[Measure]) -> dict[str, Evidence]:
        return gather(
            self._network, self._batches, measures, params=self._params, loss=self._loss, generator=self._generator
        )


class Training:
    """What a method measures while a network trains: an `Observer`, and the question which gradients it wants."""

    def __init__(self, network: nn.Module, method: Method, params: Params, generator: torch.Generator | None) -> None:
        self._network = network
        self._params = params
        self._generator = generator
        grows = None if method.regrow is None else method.regrow.by  # that of a first choice is asked for once: `start`
        scores = [score for score in (method.score, grows) if score is not None]
        self._measures = tuple(measure for score in scores for _, measure in score.measures)
        self._observer = Observer(network, self._measures, params=params, generator=generator)

    @property
    def remembers(self) -> bool:
        """Whether some evidence adds up over the steps."""
        return self._observer.remembers

    def wants_gradients(self, *, milestone: bool) -> bool:
        """Whether the coming step's dense gradients will be looked at: at a milestone, or at every step."""
        of_gradients = [measure for measure in self._measures if measure.needs is Needs.LABELS]
        return any(measure.online is not Memory.STEP or milestone for measure in of_gradients)

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
