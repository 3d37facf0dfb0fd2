"""What masks did to a model: counted, and each way of running it timed in turns."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base import shards
from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.costing import Call, Cost, Latency, call_of, count
from secateur.holding import held, hold
from secateur.masks import Layout, Masks, layouts, require_masks, unwrap
from secateur.reporting._benchmark import reason, require_seconds
from secateur.reporting._effective import effective_counts
from secateur.reporting._pictures import score_histograms
from secateur.reporting._sampled import sampled, size
from secateur.reporting._seen import kept_pixels
from secateur.reporting._told import Curve, Histogram, LayerTold, Way
from secateur.reporting._value import Report
from secateur.shrinking import shrink
from secateur.sparse import sparsify
from secateur.turns import verdict_of

__all__ = ["report"]

_BINS = 40
# In these, all multiplications are with their weights, each as often as the others.
_PLAIN = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)


def report(
    model: nn.Module,
    masks: Masks | None,
    example_inputs: Any,
    *,
    seconds: float = 2.0,
    scores: Mapping[str, Tensor] | None = None,
    curves: Sequence[Curve] = (),
) -> Report:
    """Say what masks did to a model: layer by layer, in total, and in milliseconds on this machine.

    Counted are weights, multiplications, bytes, dead units and effective sparsity, the share of weights that are pruned
    or lie on no path of kept weights from the inputs to the outputs: where 1ᵀ f_m(1) of the network whose weights are
    the masks m does not depend on the weight. Timed, in turns, are copies: dense, held (masked, as it trains), sparse
    (`sparsify`) and, where `shrink` finds whole units to cut, shrunk. Where there is no gain, it is said why.

    Args:
        model: the model; it is as before afterwards: modes, hooks, weights and random generators.
        masks: what stays; None reads the zeros off the model (`Masks.from_zeros`).
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a mapping of named ones.
        seconds: about how long to time the ways for; choosing sparse layers takes some seconds of its own the first
            time.
        scores: what the weights were ranked by, by name, as `secateur.scores` returns them: their histograms, of what
            stays and of what went.
        curves: how training went, to be drawn: `Curve("test error", [(100, 0.08), (200, 0.05)])`.

    Returns:
        The report; `print` it for tables, `.save("report.html")` writes one page that opens offline.

    Raises:
        SecateurError: the model does not run with these inputs, or is sparsified.
        MaskError: masks of another model.

    Deviates: effective weights are found from an input of ones, biases left out; an activation that is not zero at
    zero (a sigmoid) counts as reached.

    >>> net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    >>> first, second = torch.ones(3, 4) > 0, torch.tensor([[True, False, False], [True, False, False]])
    >>> found = report(net, Masks({"0.weight": first, "2.weight": second}), torch.zeros(1, 4), seconds=0.05)
    >>> [(layer.kept, layer.effective, layer.dead) for layer in found.layers]  # two of three units lead nowhere
    [(12, 4, 0), (2, 2, 0)]
    """
    require_model(model, "report(model, masks, example_inputs)")
    refuse_sparsified(model, "`report`")
    require_seconds(seconds)
    model = unwrap(model)
    catch_up(model)
    masks = Masks.from_zeros(model) if masks is None else masks
    require_masks(masks, "report(model, masks, example_inputs)")
    parameters, call = masks.parameters(model), call_of(example_inputs)
    _check_scores(scores, masks)
    dense = _plain(model)
    counted = count(dense, call)
    macs = _macs(model, parameters, counted)
    effective = effective_counts(dense, masks, call)
    turned = layouts(model)
    layers = tuple(
        _told(n, p, masks[n], macs[n], effective.get(n), turned.get(n), (scores or {}).get(n))
        for n, p in _distinct(parameters).items()
    )
    pixels = kept_pixels(dense, masks, call)
    ways = _ways(dense, masks, call, example_inputs, seconds)
    spared = sum(each.macs - (each.effective_macs or 0) for each in layers if each.macs is not None)
    totals = counted.params, counted.macs, counted.macs - spared
    return Report(type(model).__name__, layers, ways, masks, *totals, pixels, tuple(curves))


def _plain(model: nn.Module) -> nn.Module:
    """Copy the model without what holds its zeros."""
    twin = copy.deepcopy(model)
    for each in held(twin):
        each.release()
    return twin


def _distinct(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Leave out further names of a parameter that is tied."""
    first: dict[int, str] = {}
    for name, parameter in parameters.items():
        first.setdefault(id(parameter), name)
    return {name: parameters[name] for name in first.values()}


def _macs(model: nn.Module, parameters: Mapping[str, nn.Parameter], cost: Cost) -> dict[str, int | None]:
    """Return the multiplications with each parameter, in all modules that have it."""
    spent = {layer.name: layer.macs for layer in cost.layers}
    found: dict[int, int | None] = {id(parameter): 0 for parameter in parameters.values()}
    for path, module in model.named_modules():
        own = {id(p): p.numel() for n, p in module.named_parameters(recurse=False) if "bias" not in n}
        plain = isinstance(module, _PLAIN) or type(module).__name__ == "Conv1D"
        for key, numel in own.items():
            before = found.get(key, 0)
            if key in found and spent.get(path, 0):
                share = spent[path] * numel // max(1, sum(own.values()))
                found[key] = before + share if plain and before is not None else None
    # A layer without multiplications of its own (inside of attention) is computed by the layer around it.
    return {name: found[id(parameter)] or None for name, parameter in parameters.items()}


def _told(
    name: str,
    parameter: nn.Parameter,
    mask: Tensor,
    macs: int | None,
    effective: int | None,
    layout: Layout | None,
    scores: Tensor | None,
) -> LayerTold:
    turned = mask if layout is None else layout.to_canonical(mask)
    kept, width = int(mask.count_nonzero()), parameter.element_size()
    dead = int((~turned.flatten(1).any(dim=1)).sum()) if turned.dim() > 1 and mask.numel() else 0
    with torch.no_grad():
        stay = shards.full(parameter).detach()[mask.to(parameter.device)]
    histogram = _histogram(stay.float().cpu()) if kept else None
    ranked = None if scores is None else score_histograms(scores, mask)
    shape, size = tuple(mask.shape), mask.numel() * width
    return LayerTold(name, shape, kept, mask.numel(), macs, size, kept * width, dead, effective, histogram, ranked)


def _check_scores(scores: Mapping[str, Tensor] | None, masks: Masks) -> None:
    """Refuse scores of other weights before anything is timed."""
    for name, found in (scores or {}).items():
        if name not in masks or found.shape != masks[name].shape:
            expected = tuple(masks[name].shape) if name in masks else "a masked weight"
            raise SecateurError(
                f"`scores` must be of the masked weights and of their shapes: {name!r} must be {expected}, got "
                f"{tuple(found.shape)}. Pass what secateur.scores(model, method, batches) returned for this model."
            )


def _histogram(values: Tensor) -> Histogram | None:
    values = values[torch.isfinite(values)]
    if not values.numel():
        return None
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, _BINS, low, high)
    return Histogram(low, high, tuple(int(n) for n in counts))


def _ways(dense: nn.Module, masks: Masks, call: Call, inputs: Any, seconds: float) -> tuple[Way, ...]:
    """Make each way that can be made, and time them in turns."""

    def masked() -> nn.Module:
        twin = copy.deepcopy(dense)
        hold(twin, masks)
        return twin

    makers: dict[str, Callable[[], nn.Module]] = {
        "held": masked,
        "sparse": lambda: sparsify(copy.deepcopy(dense).eval(), masks, example_inputs=inputs),
        "shrunk": lambda: _cut(dense, masks, inputs),
    }
    models, refused = {"dense": dense}, dict[str, str]()
    for name, make in makers.items():
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")  # of layers that are empty, say: the table tells of them
                models[name] = make()
        except SecateurError as problem:
            refused[name] = str(problem).splitlines()[0]
    times = sampled(models, call, seconds)
    found = [Way("dense", Latency.of(times["dense"]), size(dense))]
    for name in makers:
        if name in refused:
            found.append(Way(name, None, why=refused[name]))
            continue
        verdict, latency = verdict_of((times["dense"], times[name])), Latency.of(times[name])
        gains = verdict.second_is_faster and not _alike(dense, models[name])
        why = "" if gains else reason(dense, models[name], call, latency.seconds)
        found.append(Way(name, latency, size(models[name]), verdict.ratio, verdict.spread, why))
    return tuple(found)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether both compute the same in the same way, so that what differs between their times is noise."""
    kinds = ([type(module) for module in model.modules()] for model in (one, other))
    return next(kinds) == next(kinds) and size(one) == size(other)


def _cut(dense: nn.Module, masks: Masks, inputs: Any) -> nn.Module:
    small = shrink(dense, masks, inputs, draws=0).model
    if size(small) == size(dense):
        raise SecateurError("the masks leave no whole unit that could be cut")
    return small
