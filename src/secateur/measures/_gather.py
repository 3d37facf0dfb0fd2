"""Run batches for measuring, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from secateur._base.errors import SecateurError
from secateur.measures._batch import Batch, Loss
from secateur.measures._measure import Collector, Measure, Needs
from secateur.measures._observe import check_complete
from secateur.measures._preserve import preserved, recast_buffers, swapped
from secateur.measures._probe import HALVES, Evidence, Params, Probe, at_least_float32
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
    probe = partial(Probe, model, params, loss=loss, generator=generator, dense=dense)
    for train in dict.fromkeys(measure.train for measure in measures):
        group = [measure for measure in measures if measure.train is train]
        collectors = [measure.begin(params) for measure in group]
        wanted = _wanted(batches, model, group)
        with preserved(model, params, train=train), _exact(model, params, group):
            _run(probe, wanted, collectors)
            for measure, collector in zip(group, collectors, strict=True):
                found[measure.name] = reduced(collector.compute(), measure.reduction)
                check_complete(measure, found[measure.name], params)
    return found


@contextmanager
def _exact(model: nn.Module, params: Params, measures: Sequence[Measure]) -> Iterator[None]:
    """Record gradients although the caller may not, and differentiate in float32 at least, although the caller's
    autocast or the model's own dtype would not: gradients of half precision underflow, and equal scores cannot be
    ranked.
    """
    device = next(iter(params.values())).device.type
    with torch.enable_grad(), torch.autocast(device, enabled=False), ExitStack() as stack:
        if _differentiated(measures):
            halves = {name: p for name, p in model.named_parameters() if p.dtype in HALVES}
            stack.enter_context(swapped(halves, {name: p.detach().float() for name, p in halves.items()}))
            stack.enter_context(recast_buffers(model, HALVES, torch.float32))
        yield


def _differentiated(measures: Sequence[Measure]) -> bool:
    return any(measure.needs is Needs.LABELS or measure.differentiates for measure in measures)


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
    batches: Iterable[Batch] | None, model: nn.Module, measures: Sequence[Measure]
) -> Callable[[], Iterable[Batch | None]]:
    """As many batches as the measures look at: all, one (for its shape), or a pass without any."""
    needs = max(measure.needs for measure in measures)
    if batches is None or needs is Needs.NOTHING:
        return lambda: [None]
    device = next(model.parameters()).device
    widen = _differentiated(measures) and any(p.dtype in HALVES for p in model.parameters())
    return lambda: _as_the_model(device, widen, islice(batches, 1) if needs is Needs.SHAPES else batches)


def _as_the_model(device: torch.device, widen: bool, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Move every tensor of a batch to `device`; with `widen`, halves become float32."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.clone() if value.is_inference() else value  # made under inference_mode: it takes no graph
            return at_least_float32(value.to(device)) if widen else value.to(device)
        if isinstance(value, Mapping):
            return {key: move(item) for key, item in value.items()}
        if isinstance(value, PackedSequence):
            return value.to(device)  # pyright: ignore[reportCallIssue, reportArgumentType] torch does not say so
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(move(item) for item in value))
        return type(value)(move(item) for item in value) if type(value) in (tuple, list) else value

    for batch in batches:
        yield move(batch)


def moved(model: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches with all their tensors on the model's device."""
    return _as_the_model(next(model.parameters()).device, False, batches)


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
