"""Break-evens of this machine: below which density sparse layers win, where they are not timed themselves."""

from secateur.sparse.measured._machine import BreakEven, Machine, recurrent_break_even, this_machine

__all__ = ["BreakEven", "Machine", "recurrent_break_even", "this_machine"]
