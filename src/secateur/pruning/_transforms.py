"""Sanity checks as functions: what is left of a method when its mask is shuffled or its weights are redrawn.

The third check, keeping the lowest scores, changes the method and not the mask: `invert` in `secateur.axes`.
Source of all three: Frankle et al., "Pruning neural networks at initialization: why are we missing the mark?",
arXiv 2009.08576, §4.
"""

from __future__ import annotations

import torch
from torch import nn

from secateur.axes.repair import Initialise, draw
from secateur.masks import Masks, unwrap


def shuffle(masks: Masks, *, generator: torch.Generator | None = None) -> Masks:
    """Permute each mask within its tensor: every layer keeps its count, the positions become random.

    If a method is as good with shuffled masks, only its per-layer densities matter. With no generator the permutation
    is drawn from a fresh one seeded 0, so that the global random state is left as found.

    >>> before = Masks({"w": torch.arange(100).reshape(10, 10) < 7})
    >>> after = shuffle(before)
    >>> after.kept, after == before
    (7, False)
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    device = generator.device
    shuffled = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator, device=device)
        shuffled[name] = mask.flatten()[order.to(mask.device)].reshape(mask.shape)
    return Masks(shuffled, copy=False)


def reinit(
    model: nn.Module,
    masks: Masks,
    *,
    generator: torch.Generator | None = None,
    initialise: Initialise | None = None,
) -> None:
    """Draw new initial weights for the layers of `masks` and keep the masks: zeros stay where they are.

    Args:
        model: the pruned network; its survivors are replaced.
        masks: which weights stay.
        generator: source of the new draw; by default a fresh one seeded with the global seed.
        initialise: (model, generator) → None; by default each layer's own `reset_parameters`.
    """
    network = unwrap(model)
    masks.check(network)
    draw(
        network,
        masks,
        generator if generator is not None else torch.Generator().manual_seed(torch.initial_seed()),
        initialise,
    )
