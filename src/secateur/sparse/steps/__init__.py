"""Whole training steps in one native call."""

from secateur.sparse.steps._compile import compile_step, why_no_fused_step
from secateur.sparse.steps._network import NetworkStep

__all__ = ["NetworkStep", "compile_step", "why_no_fused_step"]
