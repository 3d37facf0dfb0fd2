"""Walk a method's schedule without training, and write the zeros."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur._base.shards import is_sharded
from secateur._base.zeros import all_true, count_true
from secateur.axes import Method, Moment, all_alive
from secateur.masks import Masks, Only, layouts, prunable, unwrap
from secateur.measures import Batch, Loss, Measure, Params, gather, swapped
from secateur.pruning._choose import choose, placed, report_empty
from secateur.pruning._refusals import (
    refuse_offline,
    refuse_other_arguments,
    refuse_unfit,
    refuse_unscorable,
    report_left_out,
)
from secateur.pruning.blocks import Blocks, prune_blocks
from secateur.pruning.budgets import first_of, reach, refuse_unbudgeted
from secateur.pruning.sharded import Given, prune_sharded
from secateur.selection import kept_count
from secateur.signals import Paths


@torch.inference_mode(mode=False)  # the masks and the weights outlive a caller's inference_mode
def prune(
    model: nn.Module,
    method: Method,
    batches: Iterable[Batch] | None = None,
    *,
    loss: Loss | None = None,
    only: Only = None,
    masks: Masks | None = None,
    blocks: Blocks | None = None,
    generator: torch.Generator | None = None,
    allow_empty: bool = True,
    effective: bool = False,
) -> Masks:
    """Prune `model` by `method`: measure, score, choose, write the zeros. Returns the masks.

    Nothing is written before everything has succeeded; apart from the zeros (and what the method's repair does to the
    survivors) the model is left exactly as found: modes, buffers, gradients, hooks, random state.

    A model that is cut up over processes (FSDP2, DTensor) is pruned where it lies: all processes call this together,
    each with its own batches; scores stay in their process, and the masks, whole on each, are those of one process.
    That goes for one cut of single weights by magnitude, noise or summed gradients, globally or layer by layer.

    Args:
        model: the network; wrappers (DDP, `torch.compile`) are looked through, and masks carry the inner names.
        method: what to do, for example `methods.snip(density=0.05)`.
        batches: a list (or loader) of (inputs, targets) pairs or of mappings with labels. Scores that need no labels
            use only the shape of the inputs; scores that need no data ignore it.
        loss: (output, target) → scalar; cross-entropy by default.
        only: which tensors: a predicate, names or globs; see `prunable`.
        masks: go on from these: what they cut stays cut, whatever its value and whatever the value of what they keep,
            unless the method brings weights back; `density` still counts all weights. None: nothing is cut yet.
        blocks: modules to prune one after the other, each measured on what the blocks before it, pruned, make of the
            batches: names or globs (a star is one part of a name: "encoder.layer.*"), or a mapping of those to methods.
            Only one block's evidence is held at a time; weights outside of all blocks stay as they are. Methods that
            need a loss are given that of a block's outputs against the dense model's. Measured without dropout.
        generator: source of randomness for methods that draw.
        allow_empty: False refuses, before anything is written, a result in which some layer has no weight left;
            True only warns (`EmptyLayerWarning`).
        effective: the density is that of weights on a path from inputs to outputs (`signals.effective`): at its last
            milestone the method keeps as many as that takes, within one weight. `batches` say the inputs' shape.

    Raises:
        SecateurError: bad input, named; a method that only acts while a network trains; more weights asked for than
            `masks` leave. ScoreError: a score that is NaN or infinite. MaskError: `masks` of another model.

    >>> from secateur import methods
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> prune(model, methods.magnitude(density=0.25)).kept
    10
    """
    refuse_other_arguments(model, method, "prune(model, method)")
    network = unwrap(model)
    refuse_offline(method)
    if effective:
        refuse_unbudgeted(model, method, by_blocks=blocks is not None)
    if blocks is not None:
        one = partial(_one_block, generator=generator, allow_empty=allow_empty)
        return prune_blocks(network, method, reusable(batches), blocks, only=only, masks=masks, one=one)
    params = _scorable(network, method, only)
    if any(is_sharded(parameter) for parameter in params.values()):
        given = Given(reusable(batches), loss, masks, generator)
        return prune_sharded(network, method, params, given, check=partial(report_empty, allow_empty=allow_empty))
    bits, turned = _present(network, method, masks, params), layouts(network, params)
    batches = reusable(batches)
    paths = Paths(network, first_of(batches)) if effective else None
    with _untouched_on_error(network, method):
        chosen = Masks(bits, copy=False)
        for step, density in enumerate(method.schedule.densities):
            moment = Moment(step, density, params, bits, {}, generator, turned, batches=batches, loss=loss)
            last = step == len(method.schedule.densities) - 1
            chosen = _after(network, method, moment, batches, loss, last=last, paths=paths if last else None)
            bits = dict(chosen)
        report_empty(chosen, allow_empty=allow_empty)
        chosen.apply_(network)
    return chosen


def _scorable(network: nn.Module, method: Method, only: Only) -> Params:
    """Return what a method prunes; refuse what it cannot, and report what is left out of its own accord."""
    params = prunable(network, only, biases=method.structure.biases)
    refuse_unscorable(params, sharded=True)
    refuse_unfit(method, network, params)
    if only is None:
        report_left_out(network, params)
    return params


@torch.inference_mode(mode=False)
def scores(
    model: nn.Module,
    method: Method,
    batches: Iterable[Batch] | None = None,
    *,
    loss: Loss | None = None,
    only: Only = None,
    generator: torch.Generator | None = None,
    normalise: bool = False,
) -> dict[str, Tensor]:
    """Return the scores by which `method` would rank the weights of `model` as it stands. Nothing is changed.

    One tensor per parameter: a number per weight, in the weight's shape, or, where the method prunes larger units, a
    number per unit. With `normalise` they are divided by the sum of their magnitudes over all tensors: SNIP's
    s_j = |g_j| / Σ_k |g_k| (arXiv 1810.02340, eq. 6), which adds up to 1.
    """
    refuse_other_arguments(model, method, "scores(model, method)")
    network = unwrap(model)
    if method.score is None:
        raise SecateurError(f"{method.name} has gates and no score: what stays is learned while the network trains.")
    params = prunable(network, only, biases=method.structure.biases)
    refuse_unscorable(params)
    measures = [measure for _, measure in method.score.measures]
    evidence = gather(network, reusable(batches), measures, params=params, loss=loss, generator=generator)
    with torch.no_grad():
        moment = Moment(0, None, params, {}, layouts=layouts(network, params))
        found = {name: placed(method.score, method.score(evidence, name), name, moment) for name in params}
    if not normalise:
        return found
    total = sum(float(tensor.abs().sum(dtype=torch.float64)) for tensor in found.values())
    if total == 0:
        raise SecateurError("All scores are zero: they cannot be normalised.")
    return {name: tensor / total for name, tensor in found.items()}


def _after(
    network: nn.Module,
    method: Method,
    moment: Moment,
    batches: Iterable[Batch] | None,
    loss: Loss | None,
    *,
    last: bool,
    paths: Paths | None = None,
) -> Masks:
    """The masks after one moment, for which the network is measured as pruned so far; survivors repaired if asked."""
    repairs = last or _repairs_always(method)
    measures = [measure for measure in method.measures if repairs or not _for_repair_only(method, measure)]
    dense = {name: parameter.data for name, parameter in moment.params.items()}
    cut = {name: dense[name] * bits for name, bits in moment.alive.items() if not all_true(bits)}
    with swapped(moment.params, cut):
        evidence = gather(
            network, batches, measures, params=moment.params, loss=loss, generator=moment.generator, dense=dense
        )
    moment = replace(moment, evidence=evidence)
    masks = Masks(choose(method, moment, last=last), copy=False) if paths is None else _reached(method, moment, paths)
    if repairs and method.repair is not None:
        method.repair(network, masks, moment)
    return masks


def _reached(method: Method, moment: Moment, paths: Paths) -> Masks:
    """The masks whose effective density is that of the moment: its evidence is kept, and ranked again and again."""
    assert moment.density is not None

    def chosen(density: float) -> Masks:
        evidence = {name: dict(found) for name, found in moment.evidence.items()}
        return Masks(choose(method, replace(moment, density=density, evidence=evidence), last=False), copy=False)

    revives = method.regrow is not None and method.regrow.revives
    return reach(chosen, paths, moment.density, alive=Masks(moment.alive), revives=revives)


def _one_block(
    stage: nn.Module,
    method: Method,
    batches: Iterable[Batch],
    names: list[str],
    masks: Masks | None,
    loss: Loss,
    *,
    generator: torch.Generator | None,
    allow_empty: bool,
) -> Masks:
    return prune(
        stage, method, batches, loss=loss, only=names, masks=masks, generator=generator, allow_empty=allow_empty
    )


def _for_repair_only(method: Method, measure: Measure) -> bool:
    return not any(measure == other for score in method.scores for _, other in score.measures)


def _repairs_always(method: Method) -> bool:
    return method.repair is not None and method.repair.always


def _present(network: nn.Module, method: Method, masks: Masks | None, params: Params) -> dict[str, Tensor]:
    """What is alive before the first moment, checked."""
    alive = all_alive(params)
    if masks is None:
        return alive
    masks.check(network)
    for name in masks:
        if name not in alive:
            raise SecateurError(
                f"`masks` cover {name!r}, which this prune does not touch. Prunable here: {', '.join(alive)}."
            )
    alive |= {name: bits.to(alive[name].device) for name, bits in masks.items()}
    revives = method.regrow is not None and method.regrow.revives
    wanted, total = method.schedule.final, sum(bits.numel() for bits in alive.values())
    kept = sum(count_true(bits) for bits in alive.values())
    if not revives and wanted is not None and kept_count(wanted, total) > kept:
        raise SecateurError(
            f"`masks` keep {kept} of {total} weights, fewer than density={wanted:g} asks for, and {method.name} brings "
            f"none back. Ask for at most {kept / total:.3g}."
        )
    return alive


@contextmanager
def _untouched_on_error(network: nn.Module, method: Method) -> Iterator[None]:
    """Give parameters and buffers their values back if a repair, which writes them, or what follows it fails."""
    if method.repair is None:
        yield
        return
    tensors = [*network.parameters(), *network.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        raise


def reusable(batches: Iterable[Batch] | None) -> Iterable[Batch] | None:
    """Keep the batches of a one-shot iterator: several rounds or passes see them again."""
    return list(batches) if isinstance(batches, Iterator) else batches
