"""Walk a method's schedule without training, and write the zeros."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from secateur._base.errors import EmptyLayerWarning, SecateurError
from secateur.axes import Method
from secateur.masks import Layout, Masks, Only, layouts, prunable, unwrap
from secateur.measures import Batch, Loss, Params, gather, swapped


def prune(
    model: nn.Module,
    method: Method,
    batches: Iterable[Batch] | None = None,
    *,
    loss: Loss | None = None,
    only: Only = None,
    generator: torch.Generator | None = None,
    allow_empty: bool = True,
) -> Masks:
    """Prune `model` by `method`: measure, score, choose, write the zeros. Returns the masks.

    Nothing is written before everything has succeeded; apart from the zeros (and what the method's repair does to the
    survivors) the model is left exactly as found: modes, buffers, gradients, hooks, random state.

    Args:
        model: the network; wrappers (DDP, `torch.compile`) are looked through, and masks carry the inner names.
        method: what to do, for example `methods.snip(density=0.05)`.
        batches: a list (or loader) of (inputs, targets) pairs or of mappings with labels. Scores that need no labels
            use only the shape of the inputs; scores that need no data ignore it.
        loss: (output, target) → scalar; cross-entropy by default.
        only: which tensors: a predicate, names or globs; see `prunable`.
        generator: source of randomness for methods that draw.
        allow_empty: False refuses, before anything is written, a result in which some layer has no weight left;
            True only warns (`EmptyLayerWarning`).

    Raises:
        SecateurError: bad input, named; ScoreError: a score that is NaN or infinite.

    >>> from secateur import methods
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> prune(model, methods.magnitude(density=0.25)).kept
    10
    """
    network = unwrap(model)
    params = prunable(network, only, biases=method.structure.biases)
    _refuse_sharded(params)
    batches = _reusable(batches)
    bits: dict[str, Tensor] | None = None
    for density in method.schedule.densities:
        bits = _round(network, method, density, bits, params, batches, loss, generator)
    if bits is None:
        raise SecateurError("`method.schedule` has no milestones.")
    masks = Masks(bits, copy=False)
    report_empty(masks, allow_empty=allow_empty)
    masks.apply_(network)
    if method.repair is not None:
        method.repair(network, masks, generator)
        masks.apply_(network)
    return masks


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

    With `normalise` they are divided by the sum of their magnitudes over all tensors: SNIP's
    s_j = |g_j| / Σ_k |g_k| (arXiv 1810.02340, eq. 6), which adds up to 1.
    """
    network = unwrap(model)
    params = prunable(network, only, biases=method.structure.biases)
    found = _scores(network, method, None, params, _reusable(batches), loss, generator)
    if not normalise:
        return found
    total = sum(float(tensor.abs().sum(dtype=torch.float64)) for tensor in found.values())
    if total == 0:
        raise SecateurError("All scores are zero: they cannot be normalised.")
    return {name: tensor / total for name, tensor in found.items()}


def emptied_layers(masks: Masks) -> list[str]:
    """Names of the weights of which nothing is left. Biases are not among them: a layer does without."""
    return [name for name in masks.empty if masks[name].dim() > 1]


def report_empty(masks: Masks, *, allow_empty: bool) -> None:
    """Warn of layers without a weight left, or refuse them."""
    empty = emptied_layers(masks)
    if not empty:
        return
    what = (
        f"{len(empty)} of {len(masks)} tensors lost all their weights: {', '.join(empty)}. Their layers no longer pass "
        "any signal on."
    )
    if not allow_empty:
        raise SecateurError(
            f"allow_empty=False: {what} Keep more (a higher density), or choose per-layer quotas "
            "(scope.erk(), scope.layerwise()) or synflow, which empties no layer."
        )
    warnings.warn(what, EmptyLayerWarning, stacklevel=3)


def _round(
    network: nn.Module,
    method: Method,
    density: float | None,
    bits: dict[str, Tensor] | None,
    params: Params,
    batches: Iterable[Batch] | None,
    loss: Loss | None,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """One milestone: score the network as pruned so far, and choose anew."""
    found = _scores(network, method, bits, params, batches, loss, generator)
    return choose(found, method, density, bits, layouts(network, params))


def _scores(
    network: nn.Module,
    method: Method,
    bits: Mapping[str, Tensor] | None,
    params: Params,
    batches: Iterable[Batch] | None,
    loss: Loss | None,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    measures = [measure for _, measure in method.score.measures]
    dense = {name: parameter.data for name, parameter in params.items()}
    pruned = {} if bits is None else {name: dense[name] * bits[name] for name in bits}
    with swapped(params, pruned):
        evidence = gather(network, batches, measures, params=params, loss=loss, generator=generator)
    if "weight" in evidence:  # the dense value: what a revived weight would come back with
        evidence["weight"] = dense
    with torch.no_grad():
        return {name: method.score(evidence, name) for name in params}


def choose(
    found: Mapping[str, Tensor],
    method: Method,
    density: float | None,
    bits: Mapping[str, Tensor] | None,
    layouts: Mapping[str, Layout],
) -> dict[str, Tensor]:
    """Turn entry scores into masks: reduce to units, let them compete, expand the survivors.

    Structures and scopes see every tensor as `[out, in, ...]`; the masks are the weights' own way round.
    """
    found = _canonical(found, layouts)
    shapes = {name: tensor.shape for name, tensor in found.items()}
    units = {name: method.structure.scores(name, tensor) for name, tensor in found.items()}
    alive = None
    if bits is not None and method.regrow is None:
        bits = _canonical(bits, layouts)
        alive = {name: _units_alive(method, bits[name], units[name].shape) for name in units}
    keep = method.structure.expand(method.scope(units, shapes, density, alive=alive), shapes)
    return {name: layouts[name].from_canonical(mask) if name in layouts else mask for name, mask in keep.items()}


def _canonical(tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> dict[str, Tensor]:
    return {name: layouts[name].to_canonical(tensor) if name in layouts else tensor for name, tensor in tensors.items()}


def _units_alive(method: Method, bits: Tensor, shape: torch.Size) -> Tensor:
    return bits if bits.shape == shape else method.structure.split(bits).any(1)


def _reusable(batches: Iterable[Batch] | None) -> Iterable[Batch] | None:
    """Keep the batches of a one-shot iterator: several rounds or passes see them again."""
    return list(batches) if isinstance(batches, Iterator) else batches


def _refuse_sharded(params: Params) -> None:
    for name, parameter in params.items():
        if hasattr(parameter, "device_mesh"):
            raise SecateurError(
                f"{name!r} is sharded (a DTensor): scores of shards cannot be ranked. Prune before fully_shard(), "
                "then hold(sharded_model, masks)."
            )
        if parameter.is_meta:
            raise SecateurError(f"{name!r} has no data (device 'meta'). Materialise the model before pruning.")
