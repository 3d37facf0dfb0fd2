"""Evidence of a training run: collectors that begin once, see its gradients step by step, and compute at milestones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import ScoreError, SecateurError
from secateur.measures._measure import Collector, Measure, Memory, Needs
from secateur.measures._probe import Evidence, Params, Probe, at_least_float32


class Observer:
    """Collect evidence while a model trains, from gradients that training computes anyway; no batch is run.

    Call `update` after every backward pass, before the optimizer moves the weights, and `compute` at a milestone with
    the gradients of that step. What each measure remembers is its `online` field: a measure of the present step
    (`Memory.STEP`) looks only at what `compute` is given, and `update` costs it nothing.

    Args:
        model: the network being trained, unwrapped.
        measures: what to collect; the same measure asked for twice is collected once.
        params: the prunable parameters by name.
        generator: for measures that draw random numbers.

    Raises:
        SecateurError: a measure needs batches of its own, or two different measures have one name.

    >>> from secateur.measures import fisher
    >>> model = nn.Linear(2, 1, bias=False)
    >>> observer = Observer(model, [fisher()], params=dict(model.named_parameters()))
    >>> for step in (1.0, 2.0):
    ...     observer.update({"weight": torch.full((1, 2), step)})
    >>> observer.compute({})["fisher"]["weight"]
    tensor([[5., 5.]])
    """

    def __init__(
        self,
        model: nn.Module,
        measures: Sequence[Measure],
        *,
        params: Params,
        generator: torch.Generator | None = None,
    ) -> None:
        self._model = model
        self._params = params
        self._generator = generator
        self._measures = distinct(measures)
        for measure in self._measures:
            check_online(measure)
        self._collectors: dict[str, Collector] = {m.name: m.begin(params) for m in self._measures}

    @property
    def remembers(self) -> bool:
        """Whether some evidence outlives a step, so that `update` must be called at every one."""
        return any(map(_remembers, self._measures))

    def update(self, grads: Mapping[str, Tensor], *, dense: Mapping[str, Tensor] | None = None) -> None:
        """Take in one training step.

        Args:
            grads: the gradients by name, dense ones where masks would hide some; a tensor no gradient reached is
                left out.
            dense: the weights without masks, where the model's own are masked.
        """
        self._show(grads, dense, [measure for measure in self._measures if _remembers(measure)])

    def compute(self, grads: Mapping[str, Tensor], *, dense: Mapping[str, Tensor] | None = None) -> dict[str, Evidence]:
        """Return `{measure: {parameter: tensor}}` as it stands; `grads` of the present step do not count again.

        Raises:
            ScoreError: a tensor that no gradient has reached.
        """
        present = [measure for measure in self._measures if not _remembers(measure)]
        for measure in present:
            self._collectors[measure.name].reset()
        self._show(grads, dense, present)
        found = {measure.name: self._collectors[measure.name].compute() for measure in self._measures}
        for measure in self._measures:
            check_complete(measure, found[measure.name], self._params)
            if measure.online is not Memory.RUN:
                self._collectors[measure.name].reset()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every collector, as tensors and numbers."""
        return {name: collector.state_dict() for name, collector in self._collectors.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` in the same bits."""
        if state.keys() != self._collectors.keys():
            raise SecateurError(
                f"The state is of the measures {sorted(state)}, but this method measures {sorted(self._collectors)}. "
                "Load it into the method that saved it."
            )
        for name, collector in self._collectors.items():
            collector.load_state_dict(state[name])

    def _show(
        self, grads: Mapping[str, Tensor], dense: Mapping[str, Tensor] | None, measures: Sequence[Measure]
    ) -> None:
        given = {name: at_least_float32(grads[name].detach()) for name in self._params if name in grads}
        probe = Probe(self._model, self._params, None, None, self._generator, given_grads=given, dense=dense)
        for measure in measures:
            self._collectors[measure.name].update(probe)


def observe(
    model: nn.Module,
    measures: Sequence[Measure],
    *,
    params: Params,
    generator: torch.Generator | None = None,
    dense: Mapping[str, Tensor] | None = None,
) -> dict[str, Evidence]:
    """Return the evidence of one training step, from the gradients that it left in `.grad`; no batch is run.

    Raises:
        SecateurError: a measure needs batches of its own; ScoreError: a tensor that no gradient has reached.
    """
    observer = Observer(model, measures, params=params, generator=generator)
    grads = {name: parameter.grad for name, parameter in params.items() if parameter.grad is not None}
    observer.update(grads, dense=dense)
    return observer.compute(grads, dense=dense)


def check_online(measure: Measure) -> None:
    """Raise unless `measure` can be served by a training step's own gradients."""
    if measure.online is None and measure.needs is not Needs.NOTHING:
        raise SecateurError(
            f"{measure.name!r} cannot be measured from a training step's gradients. Pass `batches` to the Pruner."
        )


def check_complete(measure: Measure, evidence: Evidence, params: Params) -> None:
    """Raise unless there is evidence about every parameter: what was never seen is not zero."""
    absent = [name for name in params if name not in evidence]
    if not absent:
        return
    frozen = [name for name in absent if not params[name].requires_grad]
    why = f" Frozen (requires_grad=False): {', '.join(frozen)}." if frozen else ""
    raise ScoreError(
        f"There is no {measure.name!r} of {', '.join(absent)}: no batch reached them, and absent evidence is not zero."
        f"{why} Likely causes: a branch that the forward pass does not use, a part that is detached or runs under "
        "no_grad, gradient checkpointing with use_reentrant=True (say False), a layer whose weight is used without "
        "calling the layer, or a Pruner that acts before the first backward or after the gradients were cleared. "
        "Leave them out with `only=`, pass `batches`, or let the first milestone come after a step."
    )


def distinct(measures: Sequence[Measure]) -> list[Measure]:
    """Return each measure once; two that differ but share a name could not be told apart in the evidence."""
    found = list(dict.fromkeys(measures))
    names = [measure.name for measure in found]
    if len(set(names)) != len(names):
        raise SecateurError(f"Two different measures of one name cannot be collected together, got {names}.")
    return found


def _remembers(measure: Measure) -> bool:
    return measure.online in (Memory.INTERVAL, Memory.RUN)
