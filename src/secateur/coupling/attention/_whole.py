"""What all attention that holds its own widths remembers: what it was, and whether it lost anything since."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

__all__ = ["Whole"]


class Whole:
    """Mixed into a module of another class: its numbers when it began, and the way back.

    Attributes:
        was: the class before.
        whole: the numbers that it began with.
        added: the attributes that it did not have before, besides these two.
    """

    was: type[nn.Module]
    whole: tuple[int, ...]
    added: ClassVar[tuple[str, ...]]

    def numbers(self) -> tuple[int, ...]:
        """Number and widths of heads, and the width of the stream."""
        raise NotImplementedError

    def is_whole(self) -> bool:
        """Whether nothing has gone since it began."""
        return self.numbers() == self.whole

    def end(self) -> None:
        """Take away what it was given."""
        for name in ("was", "whole", *self.added):
            delattr(self, name)
