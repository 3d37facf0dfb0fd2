"""Block by block: a model's blocks pruned one after the other, each behind those that are pruned already."""

from secateur.pruning.blocks._blocks import Blocks, One, found_in, prune_blocks
from secateur.pruning.blocks._stack import Stack, Stage

__all__ = ["Blocks", "One", "Stack", "Stage", "found_in", "prune_blocks"]
