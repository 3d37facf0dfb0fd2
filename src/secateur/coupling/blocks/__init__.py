"""Residual blocks: modules that give out their own input where all their weights are zero, and what is left of them."""

from secateur.coupling.blocks._block import ResidualBlock, Shortcut, lies_in, remove_
from secateur.coupling.blocks._dead import dead_blocks
from secateur.coupling.blocks._find import residual_blocks

__all__ = ["ResidualBlock", "Shortcut", "dead_blocks", "lies_in", "remove_", "residual_blocks"]
