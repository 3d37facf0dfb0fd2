"""Prune a model that is cut up over processes, without bringing scores together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from secateur._base import shards
from secateur._base.errors import ScoreError, SecateurError, TiedScoresWarning, UnfitModelError
from secateur._base.warn import warn
from secateur._base.zeros import zero_
from secateur.axes import Method, Scope, splits
from secateur.masks import Masks, layouts
from secateur.measures import Batch, Loss, Needs, Params
from secateur.pruning.sharded._evidence import measured, parts_of, refuse_measures

_WAY_OUT = "Prune before fully_shard(), then hold(sharded_model, masks)."


class Given(NamedTuple):
    """What `prune` was given besides the model and the method.

    Attributes:
        batches: of this process.
        loss: as in `prune`.
        masks: to go on from; must be None.
        generator: the first rank's state counts.
    """

    batches: Iterable[Batch] | None
    loss: Loss | None
    masks: Masks | None
    generator: torch.Generator | None


def prune_sharded(
    network: nn.Module, method: Method, params: Params, given: Given, *, check: Callable[[Masks], None]
) -> Masks:
    """Choose which weights stay, and write the zeros over this process's part of the others.

    Args:
        network: the model; all processes of its mesh call this together.
        method: once, single weights, without regrowth or repair.
        params: what is pruned.
        given: the rest.
        check: is shown the masks before anything is written, and may refuse them.

    Returns:
        The masks, whole on every process.
    """
    _refuse(network, method, params, given.masks)
    density, score = method.schedule.densities[-1], method.score
    assert score is not None
    measures = [measure for _, measure in score.measures]
    evidence = measured(network, given.batches, measures, params, given.loss, given.generator)
    turned = layouts(network, params)
    with torch.no_grad():
        own = {name: score(evidence, name) for name in params}
        evidence.clear()
        pieces = parts_of(own, params)
        scores = {name: piece.transpose(0, 1) if name in turned else piece for name, piece in pieces.items()}
        shapes = {name: piece.shape for name, piece in scores.items()}
        keep = _chosen(method.scope, scores, shapes, density)
        _report_ties(scores, keep, needs=score.needs)
        bits = {name: bit.transpose(0, 1) if name in turned else bit for name, bit in keep.items()}
        local = {name: shards.local(bit).contiguous() for name, bit in bits.items()}
        whole = {name: shards.full(shards.as_part(bit.byte(), params[name])).bool() for name, bit in local.items()}
        masks = Masks(whole, copy=False)
        check(masks)
        for name, mask in local.items():
            zero_(shards.local(params[name]), mask, when=False)
    return masks


def _chosen(
    scope: Scope, scores: dict[str, Tensor], shapes: dict[str, torch.Size], density: float | None
) -> dict[str, Tensor]:
    """What the scope keeps, as sharded tensors."""
    try:
        return scope(scores, shapes, density)
    except SecateurError:
        raise
    except RuntimeError as problem:  # of tensors that would have to be brought together first
        raise UnfitModelError(
            f"the model is cut up over processes, and {scope.name} does not choose from whole layers, or from all of "
            f"them: its pools would have to be brought together. {_WAY_OUT}"
        ) from problem


def _refuse(network: nn.Module, method: Method, params: Params, masks: Masks | None) -> None:
    whole = next((name for name, p in params.items() if not shards.is_sharded(p)), None)
    if whole is not None:
        some = next(name for name, p in params.items() if shards.is_sharded(p))
        raise UnfitModelError(
            f"{some!r} is cut up over processes and {whole!r} is not: they cannot compete. {_WAY_OUT}"
        )
    if shards.one_mesh(list(params.values())) is None:
        raise UnfitModelError(f"the weights are cut up over several device meshes. {_WAY_OUT}")
    for name, parameter in params.items():
        if shards.part_of(parameter) is None:
            raise UnfitModelError(
                f"{name!r} is cut up as {shards.layout(parameter)[1]}, not in consecutive pieces: its weights cannot "
                f"be ranked where they lie. {_WAY_OUT}"
            )
    what = {
        "goes on from `masks`": masks is not None,
        "cuts in several rounds": len(method.schedule.densities) > 1,
        "has gates": method.score is None,
        "regrows": method.regrow is not None,
        "repairs the survivors": method.repair is not None,
        f"cuts {method.structure.name}": method.structure.split is not splits.weights,
        f"ranks scores after {method.scope.name}": method.scope.rank is not None,
    }
    for words, so in what.items():
        if so:
            raise UnfitModelError(
                f"the model is cut up over processes, and this prune {words} ({method.name}): only one cut of single "
                f"weights is made there. {_WAY_OUT}"
            )
    turned = next((name for name, layout in layouts(network, params).items() if layout.groups > 1), None)
    if turned is not None:
        raise UnfitModelError(f"{turned!r} is a grouped transposed convolution cut up over processes. {_WAY_OUT}")
    assert method.score is not None
    refuse_measures([measure for _, measure in method.score.measures], params)


def _report_ties(scores: dict[str, Tensor], keep: dict[str, Tensor], *, needs: Needs) -> None:
    """Refuse scores that are all equal, and warn where some of the lowest of a tensor were kept by their index."""
    mesh = shards.one_mesh(list(scores.values()))
    own = {name: shards.local(tensor) for name, tensor in scores.items()}
    ends = [torch.stack([_end(tensor, "amin"), -_end(tensor, "amax")]) for tensor in own.values()]
    low, high = shards.least(torch.stack(ends), mesh).unbind(1)
    high = -high
    if needs is not Needs.NOTHING and bool((low.amin() == high.amax()).all()) and any(_cuts(keep, mesh)):
        raise ScoreError(
            f"All scores are equal ({float(low[0]):g}): nothing tells the weights apart, and the mask would be the "
            "first ones by index. Likely causes: a loss that is constant in the weights, labels that do not matter to "
            "it, or an output layer of zeros."
        )
    counts = []
    for (name, tensor), value in zip(own.items(), low, strict=True):
        part = shards.part_of(scores[name])
        tied = (tensor.double() == value) if part is not None and part.counted else torch.zeros(0, dtype=torch.bool)
        bits = shards.local(keep[name]) if tied.numel() else tied
        counts.append(torch.stack([(tied & bits).sum(), tied.sum()]).cpu())
    found = shards.summed(torch.stack(counts), mesh).tolist()
    tied = {name: pair for name, pair in zip(own, found, strict=True) if 0 < pair[0] < pair[1]}
    if tied:
        where = ", ".join(f"{name} ({kept} of {all_})" for name, (kept, all_) in list(tied.items())[:3])
        warn(
            f"units that share the lowest score of their layer were kept, by their index and not by the method: {where}"
            ". The density is higher than the scores can tell apart: lower it, or score on more batches.",
            TiedScoresWarning,
        )


def _cuts(keep: dict[str, Tensor], mesh: object) -> list[bool]:
    """Of each tensor whether something of it goes."""
    gone = torch.stack([(~shards.local(bits)).sum().cpu() for bits in keep.values()])
    return (shards.summed(gone, mesh) > 0).tolist()


def _end(tensor: Tensor, which: str) -> Tensor:
    """The least or the greatest of a part as float64, and what counts for neither where the part is empty."""
    if not tensor.numel():
        return torch.tensor(torch.inf if which == "amin" else -torch.inf, dtype=torch.float64)
    return getattr(tensor, which)().double().cpu()
