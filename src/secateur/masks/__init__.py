"""Masks as values, and which tensors of a model they may cover."""

from secateur.masks._arguments import require_masks
from secateur.masks._coverage import Coverage, LeftOut, coverage
from secateur.masks._file import join
from secateur.masks._layout import Layout, layouts
from secateur.masks._masks import LayerDensity, Masks, density_text
from secateur.masks._memory import refuse_shared_memory
from secateur.masks._prunable import Only, prunable, unwrap

__all__ = [
    "Coverage",
    "LayerDensity",
    "Layout",
    "LeftOut",
    "Masks",
    "Only",
    "coverage",
    "density_text",
    "join",
    "layouts",
    "prunable",
    "refuse_shared_memory",
    "require_masks",
    "unwrap",
]
