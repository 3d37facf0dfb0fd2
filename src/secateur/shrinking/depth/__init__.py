"""Whole residual blocks that go: which ones, and the model without them."""

from secateur.shrinking.depth._gone import Gone, blocks_by, gone_blocks

__all__ = ["Gone", "blocks_by", "gone_blocks"]
