"""What a model computes, read as a list of operations that the compiled step knows."""

from secateur.sparse.programs._network import Kind, Operation, Program
from secateur.sparse.programs._trace import UnsupportedError, hooked

__all__ = ["Kind", "Operation", "Program", "UnsupportedError", "hooked"]
