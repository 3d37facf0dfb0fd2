"""Retraining after deployment: a pruned network learns from new data without losing its zeros, or much of the old."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.arguments import require_model
from secateur._base.errors import SecateurError
from secateur.holding import hold
from secateur.masks import Masks, unwrap
from secateur.programs.deployed import Rehearsal, only_these, opened

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Retrained:
    """What retraining brought.

    Attributes:
        masks: what may be non-zero now: the masks as given, and what was opened again.
        old: the quality on the old data, before and after.
        new: the same on the new data.
        trained: how many numbers were free to move.
    """

    masks: Masks
    old: tuple[float, float]
    new: tuple[float, float]
    trained: int


def retrain(
    model: nn.Module,
    masks: Masks,
    *,
    train: Callable[[nn.Module, Iterable[Pair]], None],
    new: Sequence[Pair],
    on_old: Callable[[nn.Module], float],
    on_new: Callable[[nn.Module], float],
    old: Sequence[Pair] = (),
    rehearsal: float = 0.0,
    trains: Sequence[str] | None = None,
    reopened: float = 0.0,
    generator: torch.Generator | None = None,
) -> Retrained:
    """Train a deployed, pruned network on new data under its masks, and say what that does to both kinds of data.

    Args:
        model: pruned: zero where `masks` say so. Is trained in place.
        train: your training, of a model on batches, which may be gone through again and again.
        new: batches of new data, (inputs, targets).
        on_old, on_new: the quality of a model on each kind, on data that it is not trained on.
        old: batches of the old data that are still at hand.
        rehearsal: the share of old examples in each batch, in [0, 1).
        trains: names or globs of the parameters that move; None: all. Statistics of batch norms are no parameters.
        reopened: the share of the pruned weights that may grow again, from zero, drawn at random by `generator`.

    Source: Chandakkar, Li, Ding & Li, "Strategies for re-training a pruned neural network in an edge computing
    paradigm", IEEE EDGE 2017, from its abstract: which strategies they compare is not known to this library.
    """
    require_model(model, "retrain(model, masks, train=…, new=…, on_old=…, on_new=…)")
    masks.check(model)
    own = dict(unwrap(model).named_parameters())
    if alive := [name for name, mask in masks.items() if bool((own[name].detach() != 0)[~mask].any())]:
        raise SecateurError(f"{alive[0]!r} is not zero where `masks` say so: apply them first (masks.apply_(model)).")
    drawn = generator if generator is not None else torch.Generator().manual_seed(torch.initial_seed())
    batches = Rehearsal(new, old, rehearsal, drawn)
    wider = opened(masks, reopened, drawn)
    with only_these(unwrap(model), trains) as moving:
        before = float(on_old(model)), float(on_new(model))
        with hold(model, wider):
            train(model, batches)
        free = sum(wider[name].sum().item() if name in wider else own[name].numel() for name in moving)
    return Retrained(wider, (before[0], float(on_old(model))), (before[1], float(on_new(model))), int(free))
