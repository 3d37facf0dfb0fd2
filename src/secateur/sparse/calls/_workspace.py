"""Memory for a network's activations, which calls take from an arena, and which can be given back.

It is large: to map it anew at every call would take as long as the network itself. It is bounded: an arena keeps two
workspaces, each as large as the largest need so far, whatever shapes and batches come.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet

import torch
from torch import Tensor

from secateur._base import door

_SPARE = 2  # an ordinary loop keeps the graph of one step alive while the next step goes forward


@runtime_checkable
class Holder(Protocol):
    """Something that keeps memory between calls."""

    @property
    def room_bytes(self) -> int:
        """Bytes kept at the moment."""
        ...

    def release(self) -> None:
        """Give them back; the next call takes them anew."""
        ...


_HOLDERS: WeakSet[Any] = WeakSet()
_CHANGING = Lock()  # a set must not grow while it is gone through


def register(holder: Holder) -> None:
    """Let `workspace_bytes` and `release_workspaces` know of something that keeps memory, as long as it lives."""
    with _CHANGING:
        _HOLDERS.add(holder)


def _holders() -> list[Any]:
    with _CHANGING:
        return list(_HOLDERS)


def workspace_bytes() -> int:
    """Return how many bytes sparse layers and compiled steps keep for the activations of their next call.

    That is the largest need so far of each module that was called, not a sum over shapes and batch sizes; it goes with
    the module. Kernels of linear and recurrent layers share one workspace for each thread: that of the calling thread
    is counted. Memory in use by a call, or by a graph that still waits for its backward pass, is not.
    """
    native: Any = door.native
    kept = 0 if native is None else native.scratch_bytes(torch.get_num_threads())
    return kept + sum(holder.room_bytes for holder in _holders())


def release_workspaces() -> int:
    """Give back what `workspace_bytes` counts, and return how many bytes that were.

    Models and compiled steps stay as they are; the next call takes its memory anew, once. Of the workspaces that belong
    to threads, the calling thread's is released; those of other threads go when these end.

    >>> release_workspaces() >= 0
    True
    """
    found = workspace_bytes()
    for holder in _holders():
        holder.release()
    if door.native is not None:
        door.native.release_scratch(torch.get_num_threads())
    return found


class Arena:
    """The workspaces of one module, for all shapes and batch sizes that it is called with."""

    def __init__(self) -> None:
        self._spare: list[_Room] = []
        register(self)

    @property
    def room_bytes(self) -> int:
        """Bytes kept at the moment."""
        return sum(room.work.nbytes for room in list(self._spare))

    def release(self) -> None:
        """Give them back."""
        self._spare.clear()

    def lease(self, native: Any, samples: int, training: bool) -> Lease:
        """Return a workspace of a native network for a batch of this size, zero where the network has borders."""
        room = self._take(native, samples, training)
        if room is None or not room.serves(native, samples, training):
            floats = native.work_floats(samples, training)
            if room is None or room.work.numel() < floats:
                room = _Room(torch.zeros(floats, dtype=torch.float32, device="cpu"))
            else:
                room.work[:floats].zero_()
            room.native, room.samples, room.training = native, samples, training
        return Lease(self._spare, room)

    def _take(self, native: Any, samples: int, training: bool) -> _Room | None:
        """Take the spare workspace that was used last, or the other one if that was cleared for this very call."""
        spare = self._spare
        try:  # another thread may be faster
            room = spare.pop()
            if spare and not room.serves(native, samples, training):
                other = spare.pop()
                room, other = (other, room) if other.serves(native, samples, training) else (room, other)
                spare.append(other)
        except IndexError:
            return None
        return room


class _Room:
    """Floats, and what they were cleared for: a network, a batch size, and whether with room for gradients."""

    __slots__ = ("native", "samples", "training", "work")

    def __init__(self, work: Tensor) -> None:
        self.work = work
        self.native: Any = None
        self.samples, self.training = 0, False

    def serves(self, native: Any, samples: int, training: bool) -> bool:
        """Tell whether another layout finds its borders of zeros here; gradients come behind all else."""
        return self.native is native and self.samples == samples and (self.training or not training)


class Lease:
    """A workspace that goes back to its arena when nobody refers to this lease any more."""

    __slots__ = ("_room", "_spare", "work")

    def __init__(self, spare: list[_Room], room: _Room) -> None:
        self._spare, self._room, self.work = spare, room, room.work

    def __del__(self) -> None:
        if len(self._spare) < _SPARE:
            self._spare.append(self._room)
