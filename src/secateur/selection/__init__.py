"""The one place where anything is chosen: exactly κ kept, ties by lower index, NaN and infinities refused by name."""

from secateur.selection._choose import at_least, best_prefix, check_density, kept_count, topk_mask, topk_rows
from secateur.selection._chosen import Chosen
from secateur.selection._patterns import few_patterns

__all__ = ["Chosen", "at_least", "best_prefix", "check_density", "few_patterns", "kept_count", "topk_mask", "topk_rows"]
