"""Which operations of a forward its outputs depend on: what an operation freezes counts only where it is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from secateur.coupling.labels import Labels

__all__ = ["Living"]


@dataclass(frozen=True)
class _Run:
    """One operation: the tensors it read and made, whether it wrote into one, and what it froze (a range)."""

    read: frozenset[int]
    made: frozenset[int]
    wrote: bool
    froze: range


@dataclass(eq=False)
class Living:
    """A record of who read what, from which the idle operations follow.

    An average over heads that `need_weights` makes, and nobody looks at, must not keep the heads. Operations that write
    into a tensor, or make a number of Python's, count as used: somebody else may hold it, or act by it.
    """

    runs: list[_Run] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)  # held, so that their ids stay theirs

    def note(self, read: list[Tensor], made: list[Tensor], *, wrote: bool, froze: range) -> None:
        """Write down one operation, in order."""
        self.tensors += [*read, *made]
        self.runs.append(_Run(frozenset(map(id, read)), frozenset(map(id, made)), wrote, froze))

    def forget_idle(self, labels: Labels, outputs: Iterable[Tensor]) -> None:
        """Drop from `labels.frozen` what operations said whose results never reach an output."""
        wanted = set(map(id, outputs))
        idle: set[int] = set()
        for run in reversed(self.runs):
            if run.wrote or not run.made or run.made & wanted:
                wanted |= run.read
            else:
                idle.update(run.froze)
        labels.frozen[:] = [each for k, each in enumerate(labels.frozen) if k not in idle]
