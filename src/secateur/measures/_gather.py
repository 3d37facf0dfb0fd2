"""Run batches for measuring, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._base.errors import SecateurError
from secateur.measures._measure import Collector, Measure, Needs
from secateur.measures._observe import check_complete
from secateur.measures._preserve import preserved
from secateur.measures._probe import Batch, Evidence, Loss, Params, Probe
from secateur.measures._reduction import reduced

_WANTED = {
    Needs.SHAPES: "inputs, of which only the shape is used",
    Needs.INPUTS: "inputs (labels are not needed)",
    Needs.LABELS: "(inputs, targets) pairs",
}


def gather(
    model: nn.Module,
    batches: Iterable[Batch] | None,
    measures: Sequence[Measure],
    *,
    params: Params,
    loss: Loss | None = None,
    generator: torch.Generator | None = None,
    dense: Mapping[str, Tensor] | None = None,
) -> dict[str, Evidence]:
    """Run `batches` through `model` and return the evidence of every measure: `{measure: {parameter: tensor}}`.

    Afterwards the model is as it was found: train/eval mode of every module, buffers (BN running statistics),
    gradients, requires_grad flags and the global random state are restored, error or not.
    Under torch.distributed the evidence is combined over all ranks, so every rank must call.

    Args:
        model: the model, unwrapped.
        batches: (inputs, targets) pairs, mappings, or inputs alone where no measure needs labels; moved to the model's
            device. None if no measure needs any.
        measures: what to collect; two measures of one name are an error.
        params: the prunable parameters by name.
        loss: (output, target) → scalar; cross-entropy by default.
        generator: for measures that draw random numbers.
        dense: the weights without masks, where the model holds masked ones: what the measure `weight` reads.

    Raises:
        SecateurError: a measure needs batches and there are none, labels are missing, or the loss is not a finite
            scalar; ScoreError: a parameter that no batch reached.
    """
    names = [measure.name for measure in measures]
    if len(set(names)) != len(names):
        raise SecateurError(f"Each measure may be gathered once, got {names}.")
    _check_batches(batches, measures)
    found: dict[str, Evidence] = {}
    probe = partial(Probe, model, params, loss=loss or F.cross_entropy, generator=generator, dense=dense)
    for train in dict.fromkeys(measure.train for measure in measures):
        group = [measure for measure in measures if measure.train is train]
        collectors = [measure.begin(params) for measure in group]
        with preserved(model, params, train=train), _exact(params):
            _run(probe, _wanted(batches, params, group), collectors)
            for measure, collector in zip(group, collectors, strict=True):
                found[measure.name] = reduced(collector.compute(), measure.reduction)
                check_complete(measure, found[measure.name], params)
    return found


@contextmanager
def _exact(params: Params) -> Iterator[None]:
    """Record gradients although the caller may not, and compute in the weights' own precision although the caller's
    autocast would not: gradients of half precision underflow, and equal scores cannot be ranked.
    """
    device = next(iter(params.values())).device.type
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        yield


def _run(probe: Callable[..., Probe], batches: Callable[[], Iterable[Batch | None]], active: list[Collector]) -> None:
    """Show the batches to the collectors, as often as the most demanding of them wants to see them."""
    current = 0
    while active := [collector for collector in active if collector.passes > current]:
        count = 0
        for batch in batches():
            seen = probe(batch=batch, pass_=current)
            for collector in active:
                collector.update(seen)
            count += 1
        if count == 0:
            raise SecateurError("`batches` is empty: expected at least one batch. Is the loader exhausted?")
        current += 1


def _wanted(
    batches: Iterable[Batch] | None, params: Params, measures: Sequence[Measure]
) -> Callable[[], Iterable[Batch | None]]:
    """As many batches as the measures look at: all, one (for its shape), or a pass without any."""
    needs = max(measure.needs for measure in measures)
    if batches is None or needs is Needs.NOTHING:
        return lambda: [None]
    device = next(iter(params.values())).device
    return lambda: _on(device, islice(batches, 1) if needs is Needs.SHAPES else batches)


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
        if measure.needs is not Needs.NOTHING:
            raise SecateurError(
                f"This method measures {measure.name!r} and needs `batches`: a list of {_WANTED[measure.needs]}. "
                "For example batches=[next(iter(loader))]."
            )


def _is_pair(batches: tuple[Any, ...]) -> bool:
    return all(isinstance(item, Tensor) for item in batches)
