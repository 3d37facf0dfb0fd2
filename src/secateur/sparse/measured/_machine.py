"""What is faster here: measured once on each machine, then remembered.

Below which density the sparse kernels win depends on the processor, the number of threads, the size of the layer
and the batch. A few small products, timed in about two seconds, answer it; the answers lie in a JSON file in
`$SECATEUR_CACHE` (or `~/.cache/secateur`), under a key made of processor, torch version, threads and kernels.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from secateur._base import door
from secateur.sparse.layers._convolution import sparse_convolution
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.layers._onednn import dense_linear, onednn_available
from secateur.sparse.measured._timing import interleaved

__all__ = ["BreakEven", "Machine", "cache_file", "measure_machine", "processor", "this_machine"]

_SIZES = (64, 256, 1024, 2048)
_BATCHES = (1, 128)
_VERSION = 3  # of the measurement; a change of it or of the kernels' speed measures anew


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
        """
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
    count = torch.get_num_threads() if threads is None else threads
    if threads is None:
        return this_machine(count)
    key = _key(count)
    found = _read().get(key)
    if found is not None:
        return _parse(key, found)
    machine = measure_machine(key)
    _remember(machine)
    return machine


@cache
def processor() -> str:
    """Name this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").splitlines()
    except OSError:
        lines = []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    family = f" family {fields['cpu family']} model {fields.get('model')}" if "cpu family" in fields else ""
    return (fields.get("model name") or platform.processor() or platform.machine()) + family


def cache_file() -> Path:
    """Return where the measurements are kept."""
    folder = os.environ.get("SECATEUR_CACHE")
    return (Path(folder) if folder else Path.home() / ".cache" / "secateur") / "machine.json"


def _key(threads: int) -> str:
    return f"{processor()} · torch {torch.__version__} · {threads} threads · {door.isa()} · v{_VERSION}"


def _read() -> dict[str, dict]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # not measured yet, or damaged: measure anew
    return found if isinstance(found, dict) else {}


def _parse(key: str, found: dict) -> Machine:
    try:
        return Machine(
            key, bool(found["onednn"]), tuple(BreakEven(**b) for b in found["break_evens"]), float(found["convolution"])
        )
    except (KeyError, TypeError):
        return measure_machine(key)


def _remember(machine: Machine) -> None:
    path = cache_file()
    known = _read() | {machine.key: {k: v for k, v in asdict(machine).items() if k != "key"}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError:
        return  # a read-only home: measured again by the next process


def measure_machine(key: str) -> Machine:
    """Time dense and sparse layers of several sizes. Takes about two seconds; leaves torch's RNG as it was."""
    generator = torch.Generator().manual_seed(0)
    onednn = onednn_available() and _faster_with_onednn(generator)
    found = [BreakEven(s, b, _measure(s, b, onednn, generator)) for b in _BATCHES for s in _SIZES]
    return Machine(key, onednn, tuple(found), _measure_convolution(generator))


def _faster_with_onednn(generator: torch.Generator) -> bool:
    x, weight = torch.rand(128, 1024, generator=generator), torch.rand(1024, 1024, generator=generator)
    stock, other = _seconds(
        [lambda: dense_linear(x, weight, None, onednn=False), lambda: dense_linear(x, weight, None, onednn=True)]
    )
    return other < 0.95 * stock


def _measure(size: int, batch: int, onednn: bool, generator: torch.Generator) -> float:
    """Solve a + b · density = dense for the density, a and b from two sparse layers."""
    linear = nn.Linear(size, size, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        linear.weight.copy_(torch.rand(size, size, generator=generator))
        linear.bias.zero_()  # type: ignore[union-attr]
    order = torch.rand(size, size, generator=generator)
    low, high = 0.02, 0.2
    layers = [SparseLinear.from_dense(linear, order < d) for d in (low, high)]
    x = torch.rand(batch, size, generator=generator).requires_grad_()
    dy = torch.rand(batch, size, generator=generator)
    ways = {False, onednn}
    times = _seconds(
        [
            *(lambda s=s: _train(s(x), dy, s, x) for s in layers),
            *(lambda w=w: _train(dense_linear(x, linear.weight, linear.bias, onednn=w), dy, linear, x) for w in ways),
        ]
    )
    sparse, dense = times[:2], min(times[2:])
    slope = max((sparse[1] - sparse[0]) / (high - low), 1e-12)
    return min(max((dense - sparse[0]) / slope + low, 0.0), 1.0)


def _measure_convolution(generator: torch.Generator) -> float:
    """Find the same density for a 3×3 convolution of 64 channels on 16×16 images; packing them is included."""
    dense = nn.Conv2d(64, 64, 3, padding=1, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        dense.weight.copy_(torch.rand(dense.weight.shape, generator=generator))
        dense.bias.zero_()  # type: ignore[union-attr]
    order = torch.rand(dense.weight.shape, generator=generator)
    x = torch.rand(32, 64, 16, 16, generator=generator).requires_grad_()
    dy = torch.rand(32, 64, 16, 16, generator=generator)
    densities = (0.1, 0.4, 0.7, 1.0)
    layers = [sparse_convolution(dense, order < d) for d in densities]
    sparse = [lambda s=s: _train(s(x), dy, s, x) for s in layers]
    *times, whole = _seconds([*sparse, lambda: _train(dense(x), dy, dense, x)])
    return _crossing(densities, times, whole)


def _crossing(densities: tuple[float, ...], times: list[float], level: float) -> float:
    """Return the density at which a line through the points first passes the level; 1 if it never does.

    >>> _crossing((0.1, 0.5, 1.0), [1.0, 2.0, 4.0], 3.0)
    0.75
    """
    if times[0] >= level:
        return densities[0] * level / times[0]
    for i in range(1, len(times)):
        if times[i] >= level:
            share = (level - times[i - 1]) / (times[i] - times[i - 1])
            return densities[i - 1] + share * (densities[i] - densities[i - 1])
    return 1.0


def _train(y: torch.Tensor, dy: torch.Tensor, module: nn.Module, x: torch.Tensor) -> None:
    torch.autograd.grad(y, [x, *module.parameters()], dy)


def _seconds(candidates: list[Callable[[], object]]) -> list[float]:
    named = {str(i): candidate for i, candidate in enumerate(candidates)}
    return list(interleaved(named, seconds=0.15, rounds=(5, 60), statistic=min).values())
