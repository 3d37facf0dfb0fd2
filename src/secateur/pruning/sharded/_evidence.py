"""Evidence of which each process holds the part that belongs to its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from secateur._base import shards
from secateur._base.errors import ScoreError, SecateurError, UnfitModelError
from secateur.measures import (
    Batch,
    Evidence,
    Loss,
    Measure,
    Params,
    Probe,
    grad,
    moved,
    noise,
    preserved,
    weight,
)


def refuse_measures(measures: Sequence[Measure], params: Params) -> None:
    """Refuse evidence that is not had part by part."""
    for measure in measures:
        if not (_is_grad(measure) or measure in (weight(), noise())):
            raise UnfitModelError(
                f"the model is cut up over processes, where {measure.name!r} cannot be measured: only the weights, "
                "noise and the sum of gradients (grad) are, as magnitude, random and snip ask for. Prune before "
                "fully_shard(), then hold(sharded_model, masks)."
            )
        half = next((name for name, p in params.items() if p.dtype.itemsize < 4 and _is_grad(measure)), None)
        if half is not None:
            raise UnfitModelError(
                f"{half!r} is cut up over processes in {params[half].dtype}, in which gradients underflow: keep the "
                "weights in float32 (with a MixedPrecisionPolicy for the forward), or prune before fully_shard()."
            )


def measured(
    network: torch.nn.Module,
    batches: Iterable[Batch] | None,
    measures: Sequence[Measure],
    params: Params,
    loss: Loss | None,
    generator: torch.Generator | None,
) -> dict[str, Evidence]:
    """This process's parts of the evidence of every measure; all processes of the mesh call it together."""
    found: dict[str, Evidence] = {}
    for measure in measures:
        if measure == weight():
            found[measure.name] = {name: shards.local(p).detach() for name, p in params.items()}
        elif measure == noise():
            found[measure.name] = _noise(params, generator)
        else:
            found[measure.name] = _gradients(network, batches, measure, params, loss)
    return found


def _is_grad(measure: Measure) -> bool:
    return measure == replace(grad(), train=measure.train, online=measure.online)


def _noise(params: Params, generator: torch.Generator | None) -> Evidence:
    """What one process would draw: of each tensor all is drawn, by the first rank's random state, and a part kept."""
    mesh = shards.one_mesh(list(params.values()))
    drawn = torch.Generator().manual_seed(0) if generator is None else generator
    state = torch.get_rng_state() if generator is None else generator.get_state()
    drawn.set_state(shards.from_first(state, mesh))
    found = {}
    for name, parameter in params.items():
        whole = torch.rand(parameter.shape, generator=drawn, device=drawn.device)
        found[name] = shards.local_mask(whole, parameter).clone()
    return found


def _gradients(
    network: torch.nn.Module, batches: Iterable[Batch] | None, measure: Measure, params: Params, loss: Loss | None
) -> Evidence:
    """Σ_b ∂L_b/∂w, averaged over the processes as the model itself does it in its backward."""
    found: Evidence = {}
    count = 0
    with preserved(network, params, train=measure.train), torch.enable_grad():
        for batch in moved(network, batches or ()):
            for parameter in network.parameters():
                parameter.grad = None
            Probe(network, params, batch, loss).evaluate().backward()
            count += 1
            for name, parameter in params.items():
                if parameter.grad is not None:
                    own = _like(parameter.grad, parameter).detach()
                    found[name] = own.clone() if name not in found else found[name].add_(own)
    if not count:
        raise SecateurError("`batches` is empty: expected at least one batch. Is the loader exhausted?")
    mesh = shards.one_mesh(list(params.values()))
    missing = shards.first_said(next((name for name in params if name not in found), None), mesh)
    if missing is not None:
        raise ScoreError(f"No gradient reached {missing!r}: the loss of these batches does not depend on it.")
    return found


def _like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a gradient, cut up as its parameter is."""
    cut: Any = gradient
    mesh, placements = shards.layout(parameter)
    if shards.layout(gradient) != (mesh, placements):
        cut = cut.redistribute(mesh, placements)
    return shards.local(cut)


def parts_of(tensors: Mapping[str, Tensor], params: Params) -> dict[str, Tensor]:
    """Pieces as sharded tensors, cut up as their parameters are."""
    return {name: shards.as_part(tensor, params[name]) for name, tensor in tensors.items()}
