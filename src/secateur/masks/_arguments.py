"""The masks that many verbs of this package take, checked before anything else is done with them."""

from __future__ import annotations

from collections.abc import Mapping

from secateur._base.arguments import named
from secateur._base.errors import MaskError
from secateur.masks._masks import Masks

__all__ = ["require_masks"]


def require_masks(masks: object, call: str) -> None:
    """Raise unless `masks` are `Masks`; `call` is how it is written right, `hold(model, masks)`."""
    if isinstance(masks, Masks):
        return
    if isinstance(masks, Mapping):
        more = "Write secateur.Masks(…) around it: name → boolean tensor, True for what stays."
    else:
        more = "They are what secateur.prune returns, Masks.load reads, and Masks.from_zeros finds in a pruned model."
    raise MaskError(f"`masks` must be secateur.Masks, as in {call}, got {named(masks)}. {more}")
