"""What `hold` and `Hold.replace` refuse, in sentences that name the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from secateur._base.arguments import require_model
from secateur._base.errors import MaskError, SecateurError
from secateur.masks import Masks, require_masks

__all__ = ["refuse_arguments", "refuse_held", "refuse_other_parameters"]


def refuse_arguments(model: object, masks: object, on_step: object) -> None:
    """Refuse what is no model, no masks, or no function."""
    require_model(model, "hold(model, masks)")
    require_masks(masks, "hold(model, masks)")
    if on_step is not None and not callable(on_step):
        raise SecateurError(f"`on_step` must be a function of the number of the step, got {on_step!r}.")


def refuse_held(parameters: Mapping[str, nn.Parameter], holds: Iterable[Any]) -> None:
    """Refuse parameters that one of the `holds` holds already."""
    taken = {
        id(parameter): other for other in holds for slot in other._slots if (parameter := slot.parameter()) is not None
    }
    for name, parameter in parameters.items():
        if (other := taken.get(id(parameter))) is not None:
            raise MaskError(
                f"{name!r} is held already, by {other!r}; give that hold the new masks with its "
                "`replace(masks)`, or `release()` it first (secateur.held(model) finds it)"
            )


def refuse_other_parameters(before: Masks, masks: Masks, model: nn.Module) -> None:
    """Refuse to go on with masks of other parameters than `before`, or that fit the model but not what was held."""
    for name in sorted(before.keys() ^ masks.keys()):
        raise MaskError(
            f"`masks` must name the parameters held already, but only one of the two has {name!r}; "
            "to hold others, release this hold and call hold(model, masks)"
        )
    masks.check(model)
    for name, mask in masks.items():
        if mask.shape != before[name].shape:
            raise MaskError(
                f"the mask of {name!r} must have the shape {tuple(before[name].shape)} of the one it replaces, got "
                f"{tuple(mask.shape)}; for a layer of another size, release this hold and call hold(model, masks)"
            )
