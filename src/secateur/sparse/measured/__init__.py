"""What was measured about this machine, and how to measure side by side."""

from secateur.sparse.measured._machine import BreakEven, Machine, processor, recurrent_break_even, this_machine
from secateur.sparse.measured._timing import interleaved

__all__ = ["BreakEven", "Machine", "interleaved", "processor", "recurrent_break_even", "this_machine"]
