"""Masks as values, and which tensors of a model they may cover."""

from secateur.masks._arguments import require_masks
from secateur.masks._layout import Layout, layouts
from secateur.masks._masks import LayerDensity, Masks, density_text
from secateur.masks._memory import refuse_shared_memory
from secateur.masks._prunable import Only, prunable, unwrap

__all__ = [
    "LayerDensity",
    "Layout",
    "Masks",
    "Only",
    "density_text",
    "layouts",
    "prunable",
    "refuse_shared_memory",
    "require_masks",
    "unwrap",
]
