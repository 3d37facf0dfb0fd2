"""What a model computes, read as a list of operations that the compiled step knows."""

from secateur.sparse.programs._network import Kind, Operation, Program, program_of
from secateur.sparse.programs._recurrent import RecurrentProgram, is_recurrent_network, recurrent_program_of
from secateur.sparse.programs._trace import UnsupportedError, hooked

__all__ = [
    "Kind",
    "Operation",
    "Program",
    "RecurrentProgram",
    "UnsupportedError",
    "hooked",
    "is_recurrent_network",
    "program_of",
    "recurrent_program_of",
]
