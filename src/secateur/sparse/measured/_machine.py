"""What is faster here: measured once on each machine, then remembered.

Below which density the sparse kernels win depends on the processor, the number of threads, the size of the layer
and the batch. A few small products, timed in about two seconds, answer it; the answers lie in a JSON file in
`$SECATEUR_CACHE` (or `~/.cache/secateur`), under a key made of processor, torch version, threads and kernels.

Recurrent layers are timed themselves, when the first one is sparsified: torch's dense LSTM runs in oneDNN, its GRU
does not, and both differ from linear layers.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from secateur._base import door
from secateur._base.errors import SecateurError
from secateur.sparse.measured._calibrate import (
    calibrate_convolution,
    calibrate_linear,
    calibrate_recurrent,
    faster_with_onednn,
)
from secateur.sparse.timing import cache_file, processor, remembered

_SIZES, _RECURRENT_SIZES = (64, 256, 1024, 2048), (64, 256)
_BATCHES = (1, 128)
# Of the measurements; a change of them or of the kernels' speed measures anew.
_VERSION, _RECURRENT_VERSION = 3, 1


@dataclass(frozen=True)
class BreakEven:
    """Below `density` the sparse kernels are faster, for layers of `size` × `size` and this batch."""

    size: int
    batch: int
    density: float


@dataclass(frozen=True)
class Machine:
    """What was measured here: whether oneDNN is the faster dense product, and where sparse begins to win.

    `convolution`: the density below which convolutions are faster sparse, 3×3 with 64 channels standing for all.
    """

    key: str
    onednn: bool
    break_evens: tuple[BreakEven, ...]
    convolution: float = 0.35

    def break_even(self, rows: int, columns: int, batch: int) -> float:
        """Look up the density below which a training step of such a layer is faster sparse.

        Between the sizes measured it goes along a straight line over log √(rows · columns); the batch is the
        nearest one measured.

        Raises:
            SecateurError: there are no break-evens; convolutions need none.
        """
        if not self.break_evens:
            raise SecateurError(
                "`machine` has no `break_evens`, and linear, recurrent and attention layers go by them: expected "
                f"at least one secateur.sparse.BreakEven, got {self.break_evens!r}. Give one, such as "
                "BreakEven(size=1024, batch=128, density=0.3), or leave `machine` out: layers are timed then."
            )
        batches = sorted({b.batch for b in self.break_evens}, key=lambda b: abs(math.log(b / max(batch, 1))))
        known = sorted((b.size, b.density) for b in self.break_evens if b.batch == batches[0])
        size = math.sqrt(rows * columns)
        below = max((k for k in known if k[0] <= size), default=known[0])
        above = min((k for k in known if k[0] >= size), default=known[-1])
        if below[0] == above[0]:
            return below[1]
        share = math.log(size / below[0]) / math.log(above[0] / below[0])
        return below[1] + share * (above[1] - below[1])


@cache
def this_machine(threads: int | None = None) -> Machine:
    """Return the measurements of this machine at `threads` threads (torch's by default), making them if need be."""
    if threads is None:
        return this_machine(torch.get_num_threads())
    key = f"{processor()} · torch {torch.__version__} · {threads} threads · {door.isa()} · v{_VERSION}"

    def read(entry: Any) -> Machine:
        return Machine(key, bool(entry["onednn"]), _read(entry["break_evens"]), float(entry["convolution"]))

    def write(machine: Machine) -> object:
        return {name: value for name, value in asdict(machine).items() if name != "key"}

    return remembered(cache_file("machine.json"), key, lambda: measure_machine(key), write=write, read=read)


@cache
def recurrent_machine(key: str, gru: bool) -> Machine:
    """Return the break-evens of LSTM or GRU layers on the machine of this key, measuring them if need be."""
    name = f"{key} · {'GRU' if gru else 'LSTM'} v{_RECURRENT_VERSION}"

    def write(found: tuple[BreakEven, ...]) -> object:
        return [asdict(b) for b in found]

    file = cache_file("recurrent.json")
    return Machine(name, False, remembered(file, name, lambda: measure_recurrent(gru), write=write, read=_read))


def recurrent_break_even(machine: Machine, units: int, batch: int, *, gru: bool) -> float:
    """Look up the density below which a training step of such a layer is faster sparse.

    A machine that was described by hand, and so not measured here, answers with its linear layers' break-even.

    >>> by_hand = Machine("example", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.3),))
    >>> recurrent_break_even(by_hand, 128, 100, gru=True)
    0.3
    """
    known = recurrent_machine(machine.key, gru) if processor() in machine.key else machine
    return known.break_even(units, units, batch)


def measure_machine(key: str) -> Machine:
    """Time dense and sparse layers of several sizes. Takes about two seconds; leaves torch's RNG as it was."""
    generator = torch.Generator().manual_seed(0)
    onednn = faster_with_onednn(generator)
    found = [BreakEven(s, b, calibrate_linear(s, b, onednn, generator)) for b in _BATCHES for s in _SIZES]
    return Machine(key, onednn, tuple(found), calibrate_convolution(generator))


def measure_recurrent(gru: bool) -> tuple[BreakEven, ...]:
    """Time dense and sparse layers of several sizes. Takes about a second; leaves torch's RNG as it was."""
    generator = torch.Generator().manual_seed(0)
    return tuple(BreakEven(s, b, calibrate_recurrent(s, b, gru, generator)) for b in _BATCHES for s in _RECURRENT_SIZES)


def _read(entries: Any) -> tuple[BreakEven, ...]:
    if not entries:
        raise ValueError("nothing was measured")
    return tuple(BreakEven(**entry) for entry in entries)
