"""Rounds of training and cutting, from one place to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from secateur.axes import Method, Scope
from secateur.costing import cost
from secateur.masks import Masks, Only
from secateur.measures import Batch
from secateur.methods import magnitude
from secateur.programs.rounds._checks import check, check_step, scope_of, staged
from secateur.pruning import prune
from secateur.tickets import Stage, Staged, restore, snapshot


def rounds_of(
    model: nn.Module,
    between: Callable[[Masks | None], object],
    *,
    density: float,
    rounds: int,
    start: Mapping[str, Tensor],
    among: Scope | None = None,
    layerwise: bool = False,
    only: Only = None,
) -> Masks:
    """Train (`between`), cut the smallest survivors, go back to `start` with what is left; `rounds` times."""
    masks: Masks | None = None
    for r in range(1, rounds + 1):
        between(masks)
        target = density if r == rounds else density ** (r / rounds)
        chosen = scope_of(r, among, layerwise=layerwise)
        masks = prune(model, magnitude(target, scope=chosen), only=only, masks=masks)
        restore(model, start)
        masks.apply_(model)
    assert masks is not None
    return masks


def would_keep(model: nn.Module, method: Method, masks: Masks | None, only: Only) -> Masks:
    """The masks to which a model would be cut now; it keeps its weights."""
    values = snapshot(model)
    try:
        return prune(model, method, only=only, masks=masks)
    finally:
        restore(model, values)


def share_of_macs(model: nn.Module, masks: Masks, batch: Batch) -> float:
    """Which share of the multiplications of one forward the masks leave."""
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    counted = cost(model, inputs)
    kept = {layer.name.rpartition(".")[0]: (layer.kept, layer.numel) for layer in masks.layers()}
    left = sum(each.macs * kept[each.name][0] / kept[each.name][1] for each in counted.layers if each.name in kept)
    rest = sum(each.macs for each in counted.layers if each.name not in kept)
    return (left + rest) / counted.macs


def retrained(
    model: nn.Module,
    train: Staged,
    steps: int,
    *,
    density: float,
    rounds: int,
    span: int | None,
    rewinds: bool = False,
    rate: int | None = None,
) -> Masks:
    """Train, then cut and train the last `span` steps again, in rounds: from where training ended, or as they began.

    Args:
        rewinds: weights, buffers and the optimizer's memory go back to where those steps began.
        rate: the step whose learning rate they all have.
    """
    check(density, rounds)
    last = steps if span is None else span
    check_step("retrain", last, steps)
    back = steps - last
    memory = staged(train, model, None, Stage(0, back, steps))
    early, remembered = snapshot(model), memory
    remembered = staged(train, model, None, Stage(back, steps, steps, memory))
    masks: Masks | None = None
    for r in range(1, rounds + 1):
        target = density if r == rounds else density ** (r / rounds)
        masks = prune(model, magnitude(target), masks=masks)
        if rewinds:
            restore(model, early)
            masks.apply_(model)
            remembered = memory
        remembered = staged(train, model, masks, Stage(back, steps, steps, remembered, rate))
    assert masks is not None
    return masks
