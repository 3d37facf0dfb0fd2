"""Models that are cut up over processes (FSDP2, DTensor): pruned where they lie."""

from secateur.pruning.sharded._prune import prune_sharded, write_zeros

__all__ = ["prune_sharded", "write_zeros"]
