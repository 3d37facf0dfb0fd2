"""Below which density LSTM and GRU layers are faster sparse here: measured once, when the first one is sparsified.

torch's dense LSTM runs in oneDNN, its GRU does not, and both differ from linear layers; so they are timed themselves.
The answers lie beside those for linear layers (`secateur.sparse.machine`), in `recurrent.json`.
"""

from __future__ import annotations

import json
import os
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.sparse.layers._recurrent_build import sparse_recurrent
from secateur.sparse.measured._machine import BreakEven, Machine, cache_file, processor
from secateur.sparse.measured._timing import interleaved

__all__ = ["measure_recurrent", "recurrent_break_even", "recurrent_cache_file"]

_SIZES = (64, 256)
_BATCHES = (1, 128)
_STEPS = 8
_VERSION = 1  # of the measurement; a change of it or of the kernels' speed measures anew


def recurrent_break_even(machine: Machine, units: int, batch: int, *, gru: bool) -> float:
    """Look up the density below which a training step of such a layer is faster sparse.

    A machine that was described by hand, and so not measured here, answers with its linear layers' break-even.

    >>> by_hand = Machine("example", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.3),))
    >>> recurrent_break_even(by_hand, 128, 100, gru=True)
    0.3
    """
    known = _measured(machine.key, gru) if processor() in machine.key else machine
    return known.break_even(units, units, batch)


def recurrent_cache_file() -> Path:
    """Return where the measurements are kept."""
    return cache_file().with_name("recurrent.json")


@cache
def _measured(key: str, gru: bool) -> Machine:
    name = f"{key} · {'GRU' if gru else 'LSTM'} v{_VERSION}"
    try:
        found = tuple(BreakEven(**b) for b in _read()[name])
    except (KeyError, TypeError):
        found = ()
    if not found:
        found = measure_recurrent(gru=gru)
        _remember(name, found)
    return Machine(name, onednn=False, break_evens=found)


def _read() -> dict[str, list]:
    try:
        found = json.loads(recurrent_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # not measured yet, or damaged: measure anew
    return found if isinstance(found, dict) else {}


def _remember(name: str, found: tuple[BreakEven, ...]) -> None:
    path = recurrent_cache_file()
    known = _read() | {name: [vars(b) for b in found]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        partial_file.write_text(json.dumps(known, indent=1), encoding="utf-8")
        partial_file.replace(path)
    except OSError:
        return  # a read-only home: measured again by the next process


def measure_recurrent(*, gru: bool) -> tuple[BreakEven, ...]:
    """Time dense and sparse layers of several sizes. Takes about a second; leaves torch's RNG as it was."""
    generator = torch.Generator().manual_seed(0)
    return tuple(BreakEven(s, b, _measure(gru, s, b, generator)) for b in _BATCHES for s in _SIZES)


def _measure(gru: bool, size: int, batch: int, generator: torch.Generator) -> float:
    """Solve a + b · density = dense for the density, a and b from two sparse layers."""
    dense = (nn.GRU if gru else nn.LSTM)(size, size, device="meta").to_empty(device="cpu")
    order: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=generator) - 0.5) / size**0.5)
            if name.startswith("weight"):
                order[name] = torch.rand(parameter.shape, generator=generator)
    low, high = 0.02, 0.2
    layers = [sparse_recurrent(dense, {n: o < d for n, o in order.items()}) for d in (low, high)]
    x = torch.rand(_STEPS, batch, size, generator=generator).requires_grad_()
    dy = torch.rand(_STEPS, batch, size, generator=generator)
    candidates = {str(i): partial(_train, m, x, dy) for i, m in enumerate([*layers, dense])}
    first, second, whole = interleaved(candidates, seconds=0.15, rounds=(5, 60), statistic=min).values()
    slope = max((second - first) / (high - low), 1e-12)
    return min(max((whole - first) / slope + low, 0.0), 1.0)


def _train(layer: nn.Module, x: Tensor, dy: Tensor) -> None:
    torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], dy)
