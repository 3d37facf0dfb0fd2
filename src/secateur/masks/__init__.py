"""Masks as values, and which tensors of a model they may cover."""

from secateur.masks._arguments import require_masks, require_model
from secateur.masks._layout import Layout, layouts
from secateur.masks._masks import LayerDensity, Masks, density_text
from secateur.masks._prunable import Only, prunable, unwrap

__all__ = ["LayerDensity", "Layout", "Masks", "Only", "density_text", "layouts", "prunable", "require_masks", "require_model", "unwrap"]
