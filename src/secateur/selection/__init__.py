"""The one place where anything is chosen: exactly κ kept, ties by lower index, NaN and infinities refused by name."""

from secateur.selection._among import Among, best_of_one, sizes_of
from secateur.selection._choose import at_least, best_prefix, check_density, kept_count, topk_mask, topk_rows
from secateur.selection._chosen import Chosen
from secateur.selection._exchange import exchanged_at_once
from secateur.selection._patterns import few_patterns

__all__ = [
    "Among",
    "Chosen",
    "at_least",
    "best_of_one",
    "best_prefix",
    "check_density",
    "exchanged_at_once",
    "few_patterns",
    "kept_count",
    "sizes_of",
    "topk_mask",
    "topk_rows",
]
