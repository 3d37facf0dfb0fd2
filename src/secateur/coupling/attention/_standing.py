"""Which modules become others, and which of them may become again what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from secateur.coupling.attention._heads import OwnHeads, takes_heads
from secateur.coupling.attention._positions import OwnPositions, takes_positions
from secateur.coupling.attention._whole import Whole
from secateur.coupling.attention._windows import OwnWindows, takes_windows

__all__ = ["hold_own_widths", "settle"]

#: The class, by its full name (neither library is imported) → the class that takes its place, and whether it can.
_PLACES: dict[str, tuple[type[Any], Callable[[nn.Module], bool]]] = {
    "torch.nn.modules.activation.MultiheadAttention": (OwnHeads, takes_heads),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": (OwnWindows, takes_windows),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": (OwnWindows, takes_windows),
    "timm.models.beit.Attention": (OwnPositions, takes_positions),
}


def hold_own_widths(model: nn.Module) -> None:
    """Let attention that computes the width of its heads hold it instead, in place: same tensors, names and function.

    The object stays, with its hooks and modes, and gets another class.
    """
    for module in model.modules():
        before = type(module)
        place, takes = _PLACES.get(f"{before.__module__}.{before.__qualname__}", (None, None))
        if place is not None and takes is not None and takes(module):
            cast(Any, module).__class__ = place
            place.begin(module, before)
    for module in model.modules():
        # With a padding mask it would hand nested tensors to its layers, which only torch's fused layer can take.
        if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor and _has_own(module):
            module.use_nested_tensor = False
            cast(Any, module).nested_before = True


def settle(model: nn.Module) -> None:
    """Let what lost nothing become again what it was, in place."""
    for module in model.modules():
        if isinstance(module, Whole) and module.is_whole():
            before = module.was
            module.end()
            cast(Any, module).__class__ = before
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and hasattr(module, "nested_before") and not _has_own(module):
            del module.nested_before
            module.use_nested_tensor = True


def _has_own(module: nn.Module) -> bool:
    return any(isinstance(each, OwnHeads) for each in module.modules())
