"""Language models from a folder: pruned without labels, block by block, and written so that they open again."""

from __future__ import annotations

from secateur.lab.language._folder import config_in, opened, tokenizer_in, written
from secateur.lab.language._perplexity import perplexity
from secateur.lab.language._sweep import PrunedFolder, prune_folder
from secateur.lab.language._text import batches_of, token_ids, windows

__all__ = [
    "PrunedFolder",
    "batches_of",
    "config_in",
    "opened",
    "perplexity",
    "prune_folder",
    "token_ids",
    "tokenizer_in",
    "windows",
    "written",
]
