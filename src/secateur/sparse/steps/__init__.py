"""Whole training steps in one native call."""

from secateur.sparse.steps._compile import compile_step, why_no_fused_step

__all__ = ["compile_step", "why_no_fused_step"]
