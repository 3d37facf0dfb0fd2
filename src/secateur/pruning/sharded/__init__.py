"""Models that are cut up over processes (FSDP2, DTensor): pruned where they lie."""

from secateur.pruning.sharded._prune import Given, prune_sharded

__all__ = ["Given", "prune_sharded"]
