"""Models of Hugging Face: pruned by their Trainer, and made smaller so that `from_pretrained` opens them again."""

from __future__ import annotations

from secateur.integrations.transformers._callback import PrunerCallback
from secateur.integrations.transformers._shrink import shrink

__all__ = ["PrunerCallback", "shrink"]
