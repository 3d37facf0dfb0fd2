"""Block by block: a model's blocks pruned one after the other, each behind those that are pruned already."""

from secateur.pruning.blocks._blocks import Blocks, One, found_in, prune_blocks, squared_distance, wants_targets
from secateur.pruning.blocks._stack import Call, Stack, Stage, evaluating, only_tensor, places_of, with_argument

__all__ = [
    "Blocks",
    "Call",
    "One",
    "Stack",
    "Stage",
    "evaluating",
    "found_in",
    "only_tensor",
    "places_of",
    "prune_blocks",
    "squared_distance",
    "wants_targets",
    "with_argument",
]
