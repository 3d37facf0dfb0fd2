"""Scratch-E and scratch-B: what a pruned architecture is worth without the weights that it was found with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from secateur._base.errors import SecateurError
from secateur.masks import Masks
from secateur.measures import Batch
from secateur.methods import magnitude
from secateur.programs.rounds import check, check_step, share_of_macs, staged
from secateur.pruning import prune, reinit
from secateur.tickets import Stage, Staged


def scratch_e(
    model: nn.Module, *, train: Staged, steps: int, density: float, generator: torch.Generator | None = None
) -> Masks:
    """Train, cut the smallest weights of all, draw the survivors anew, and train them for as many steps (epochs).

    Args:
        model: the network at its starting values; trained afterwards.
        train: your training for one `tickets.Stage`; returns what its optimizer remembers.
        steps: T, the length of training.
        density: the fraction that stays.
        generator: draws the new weights, by each layer's `reset_parameters`.

    Ends: trained.
    Family: lottery tickets.
    Source: Liu, Sun, Zhou, Huang & Darrell, "Rethinking the value of network pruning", ICLR 2019, arXiv 1810.05270, §3.
    Deviates: all prunable layers together; the authors cut convolutions alone.
    """
    return _from_scratch(model, train, steps, steps, density, generator)


def scratch_b(
    model: nn.Module,
    *,
    train: Staged,
    steps: int,
    density: float,
    batches: Iterable[Batch],
    most: float = 2.0,
    generator: torch.Generator | None = None,
) -> Masks:
    """As `scratch_e`, for as much computation (budget): T · MACs of the dense network / MACs of the pruned one steps.

    Args as of `scratch_e`; `batches` say the inputs' shape, and training is at most `most` times as long.

    Ends: trained.
    Family: lottery tickets.
    Source: Liu, Sun, Zhou, Huang & Darrell, ICLR 2019, arXiv 1810.05270, §3.
    Deviates: all prunable layers together; the authors cut convolutions alone, and double the epochs where more than
    half of the computation is saved (`most`).
    """
    if not most >= 1:
        raise SecateurError(f"`most` is how many times as long training may be, at least 1, got {most:g}.")
    return _from_scratch(model, train, steps, most, density, generator, next(iter(batches)))


def _from_scratch(
    model: nn.Module, train: Staged, steps: int, most: float, density: float,
    generator: torch.Generator | None, batch: Batch | None = None,
) -> Masks:  # fmt: skip
    check(density, 1)
    check_step("steps", steps, steps)
    staged(train, model, None, Stage(0, steps, steps))
    masks = prune(model, magnitude(density))
    reinit(model, masks, generator=generator)
    long = steps if batch is None else round(steps * min(most, 1 / share_of_macs(model, masks, batch)))
    staged(train, model, masks, Stage(0, long, long))
    return masks
