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

# What a workspace was cleared for: a network, a batch size, and whether with room for gradients.
_Layout = tuple[object, int, bool]


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

    >>> _ = release_workspaces()
    >>> workspace_bytes()
    0
    """
    found = workspace_bytes()
    for holder in _holders():
        holder.release()
    if door.native is not None:
        door.native.release_scratch(torch.get_num_threads())
    return found


class _Room:
    """Floats, and the layout whose borders of zeros are in them."""

    __slots__ = ("layout", "work")

    def __init__(self, work: Tensor, layout: _Layout) -> None:
        self.work, self.layout = work, layout


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
        return Lease(self._spare, self._take(native, samples, training))

    def _take(self, native: Any, samples: int, training: bool) -> _Room:
        layout, spare = (native, samples, training), self._spare
        best = next((i for i, room in enumerate(spare) if _serves(room.layout, layout)), -1)
        try:
            room = spare.pop(best)  # another thread may have been faster, and changed what lies there
        except IndexError:
            room = None
        if room is not None and _serves(room.layout, layout):
            return room
        floats = native.work_floats(samples, training)
        if room is None or room.work.numel() < floats:
            return _Room(torch.zeros(floats, dtype=torch.float32, device="cpu"), layout)
        room.work[:floats].zero_()
        room.layout = layout
        return room


def _serves(cleared: _Layout, wanted: _Layout) -> bool:
    """Tell whether a workspace cleared for one layout is ready for another; gradients come behind all else."""
    return cleared[0] is wanted[0] and cleared[1] == wanted[1] and (cleared[2] or not wanted[2])


class Lease:
    """A workspace that goes back to its arena when nobody refers to this lease any more."""

    def __init__(self, spare: list[_Room], room: _Room) -> None:
        self._spare, self._room = spare, room

    @property
    def work(self) -> Tensor:
        """The floats."""
        return self._room.work

    def __del__(self) -> None:
        if len(self._spare) < _SPARE:
            self._spare.append(self._room)
