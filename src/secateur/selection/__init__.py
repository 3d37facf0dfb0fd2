"""The one place where anything is chosen: exactly κ kept, ties by lower index, NaN and infinities refused by name."""

from secateur.selection._choose import at_least, best_prefix, check_density, kept_count, topk_mask, topk_rows

__all__ = ["at_least", "best_prefix", "check_density", "kept_count", "topk_mask", "topk_rows"]
