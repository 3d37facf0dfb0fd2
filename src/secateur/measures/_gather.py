"""Run batches for measuring, and leave no trace; or look at what a training step left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import SecateurError
from secateur.measures._measure import Batch, Collector, Evidence, Loss, Measure, Params, Probe, reduced
from secateur.measures._preserve import preserved


def gather(
    model: nn.Module,
    batches: Iterable[Batch] | None,
    measures: Sequence[Measure],
    *,
    params: Params,
    loss: Loss | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Evidence]:
    """Run `batches` through `model` and return the evidence of every measure: `{measure: {parameter: tensor}}`.

    Afterwards the model is as it was found: train/eval mode of every module, buffers (BN running statistics),
    gradients, requires_grad flags and the global random state are restored, error or not.
    Under torch.distributed the evidence is combined over all ranks, so every rank must call.

    Args:
        model: the model, unwrapped.
        batches: (inputs, targets) pairs or mappings; moved to the model's device. None if no measure needs any.
        measures: what to collect; two measures of one name are an error.
        params: the prunable parameters by name.
        loss: (output, target) → scalar; cross-entropy by default.
        generator: for measures that draw random numbers.

    Raises:
        SecateurError: a measure needs batches and there are none, or the loss is not a finite scalar.
    """
    names = [measure.name for measure in measures]
    if len(set(names)) != len(names):
        raise SecateurError(f"Each measure may be gathered once, got {names}.")
    _check_batches(batches, measures)
    found: dict[str, Evidence] = {}
    for train in dict.fromkeys(measure.train for measure in measures):
        group = [measure for measure in measures if measure.train is train]
        collectors = [measure.begin(params) for measure in group]
        with preserved(model, params, train=train), _exact(params):
            _run(model, batches, collectors, params, loss or F.cross_entropy, generator)
            for measure, collector in zip(group, collectors, strict=True):
                found[measure.name] = reduced(collector.compute(), measure.reduction)
    return found


@contextmanager
def _exact(params: Params) -> Iterator[None]:
    """Record gradients although the caller may not, and compute in the weights' own precision although the caller's
    autocast would not: gradients of half precision underflow, and equal scores cannot be ranked.
    """
    device = next(iter(params.values())).device.type
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        yield


def _run(
    model: nn.Module,
    batches: Iterable[Batch] | None,
    collectors: Sequence[Collector],
    params: Params,
    loss: Loss,
    generator: torch.Generator | None,
) -> None:
    device = next(iter(params.values())).device
    for current in range(max(collector.passes for collector in collectors)):
        active = [collector for collector in collectors if collector.passes > current]
        count = 0
        for batch in _on(device, batches) if batches is not None else [None]:
            probe = Probe(model, params, batch, loss, generator, current)
            for collector in active:
                collector.update(probe)
            count += 1
        if count == 0:
            raise SecateurError("`batches` is empty: expected at least one batch. Is the loader exhausted?")


def _on(device: torch.device, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Move every tensor of a batch to `device`."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, Mapping):
            return {key: move(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(move(item) for item in value) if type(value) in (tuple, list) else value
        return value

    for batch in batches:
        yield move(batch)


def _check_batches(batches: Iterable[Batch] | None, measures: Sequence[Measure]) -> None:
    if batches is not None:
        if isinstance(batches, Tensor) or (isinstance(batches, tuple) and len(batches) == 2 and _is_pair(batches)):
            raise SecateurError("`batches` must be a list of batches, got a single one. Did you mean batches=[batch]?")
        return
    for measure in measures:
        if measure.needs != "nothing":
            what = "(inputs, targets) pairs" if measure.needs == "labels" else "inputs, of which only the shape is used"
            raise SecateurError(
                f"This method measures {measure.name!r} and needs `batches`: a list of {what}. "
                "For example batches=[next(iter(loader))]."
            )


def _is_pair(batches: tuple[Any, ...]) -> bool:
    return all(isinstance(item, Tensor) for item in batches)


def observe(
    model: nn.Module,
    measures: Sequence[Measure],
    *,
    params: Params,
    generator: torch.Generator | None = None,
) -> dict[str, Evidence]:
    """Collect evidence from the gradients that the last training step left in `.grad`; no batch is run.

    Raises:
        SecateurError: a measure needs batches of its own.
    """
    found: dict[str, Evidence] = {}
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.detach() for n, p in params.items()}
    for measure in measures:
        check_online(measure)
        collector = measure.begin(params)
        collector.update(Probe(model, params, None, F.cross_entropy, generator, given_grads=grads))
        found[measure.name] = collector.compute()
    return found


def check_online(measure: Measure) -> None:
    """Raise unless `measure` can be served by a training step's own gradients."""
    if not (measure.online or measure.needs == "nothing"):
        raise SecateurError(
            f"{measure.name!r} cannot be measured from a training step's gradients. Pass `batches` to the Pruner."
        )
