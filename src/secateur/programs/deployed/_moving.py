"""What may move while a pruned network is trained on: pruned weights opened again, and parameters by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import nn

from secateur._base.errors import SecateurError, nearest
from secateur.masks import Masks
from secateur.selection import kept_count, topk_mask


def opened(masks: Masks, share: float, generator: torch.Generator) -> Masks:
    """The masks with this share of the pruned weights alive again, drawn at random."""
    if not 0 <= share <= 1:
        raise SecateurError(f"`reopened` must be a share of the pruned weights, in [0, 1], got {share}.")
    count = kept_count(share, masks.numel - masks.kept) if share else 0
    if count == 0:
        return masks
    drawn = {name: torch.rand(mask.shape, generator=generator).to(mask.device) for name, mask in masks.items()}
    ranked = {name: torch.where(mask, 2.0, drawn[name]) for name, mask in masks.items()}
    return Masks(dict(topk_mask(ranked, masks.kept + count)))


@contextmanager
def only_these(model: nn.Module, names: Sequence[str] | None) -> Iterator[list[str]]:
    """Let only these parameters (names or globs) ask for gradients; as found afterwards. Gives their names."""
    own = dict(model.named_parameters())
    for wanted in names or ():
        if not any(fnmatchcase(name, wanted) for name in own):
            raise SecateurError(f"`trains`: {wanted!r} is no parameter of this model.{nearest(wanted, own)}")
    moving = [
        name
        for name, parameter in own.items()
        if parameter.requires_grad and (names is None or any(fnmatchcase(name, wanted) for wanted in names))
    ]
    found = {name: parameter.requires_grad for name, parameter in own.items()}
    try:
        for name, parameter in own.items():
            parameter.requires_grad_(name in moving)
        yield moving
    finally:
        for name, parameter in own.items():
            parameter.requires_grad_(found[name])
