"""Models of Hugging Face: made smaller so that their config says it, and `from_pretrained` opens them again."""

from __future__ import annotations

from secateur.integrations.transformers._shrink import shrink

__all__ = ["shrink"]
