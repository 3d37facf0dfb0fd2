"""Time and memory of choosing the top 5 % of N scores: Secateur's selection against what torch and numpy offer.

    python benchmarks/selection.py --sizes 1e6,1e7,1e8 --json selection.json

The scores |g · w| lie in eight tensors, as in a network. Secateur's two candidates read them there and write all
masks, exactly. The others get the scores in one flat tensor already, for free, and have done their work when they
know the threshold or the indices: no masks, and too many kept where scores tie. So the ratios are on the safe side.

Candidates run in turn, A B C A B C, in one process; figures are medians. Memory is the growth of the peak resident
size over one call in a process of its own, the masks (1 byte per score) taken off where they are part of the work.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _common import add_own_time, clock_of
from torch import Tensor

from secateur._base import door
from secateur.selection import kept_count, topk_mask
from secateur.sparse.timing import processor

DENSITY = 0.05
TENSORS = 8
RIVAL = "torch.topk"

Scores = Mapping[str, Tensor]
Candidate = Callable[[Scores, Tensor, int], object]
Clock = Callable[[], float]


def _native(scores: Scores, flat: Tensor, keep: int) -> object:
    return topk_mask(scores, keep)


def _fallback(scores: Scores, flat: Tensor, keep: int) -> object:
    kernels, door.native = door.native, None
    try:
        return topk_mask(scores, keep)
    finally:
        door.native = kernels


def _partition(scores: Scores, flat: Tensor, keep: int) -> object:
    at = flat.numel() - keep
    return np.partition(flat.numpy(), at)[at]


def _topk(scores: Scores, flat: Tensor, keep: int) -> object:
    return torch.topk(flat, keep, sorted=False)


def _kthvalue(scores: Scores, flat: Tensor, keep: int) -> object:
    return torch.kthvalue(flat, flat.numel() - keep + 1)


CANDIDATES: dict[str, Candidate] = {
    "secateur, compiled": _native,
    "secateur, torch": _fallback,
    "numpy.partition": _partition,
    RIVAL: _topk,
    "torch.kthvalue": _kthvalue,
}
WRITES_MASKS = {"secateur, compiled", "secateur, torch"}


@dataclass(frozen=True)
class Row:
    """One candidate at one size."""

    candidate: str
    scores: int
    median_s: float
    fastest_s: float
    speedup: float  # over torch.topk
    extra_bytes_per_score: float


def make_scores(size: int) -> tuple[dict[str, Tensor], Tensor]:
    """|g · w| for normal g and w, in one flat tensor and as views of eight uneven parts of it."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.empty(size).normal_(generator=generator)
    for part in flat.split(1 << 20):  # in place and in parts: the peak of this process must be the call to measure
        part.mul_(torch.empty_like(part).normal_(generator=generator)).abs_()
    cuts = [size * (index * (index + 1) // 2) // 36 for index in range(1, TENSORS)]
    return {f"layer{i}": part for i, part in enumerate(flat.tensor_split(cuts))}, flat


def available() -> dict[str, Candidate]:
    skipped = set() if door.native else {"secateur, compiled"}
    return {name: candidate for name, candidate in CANDIDATES.items() if name not in skipped}


def time_all(size: int, rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, interleaved; one more round before them warms up."""
    scores, flat = make_scores(size)
    keep = kept_count(DENSITY, size)
    seconds: dict[str, list[float]] = {name: [] for name in available()}
    for turn in range(rounds + 1):
        for name, candidate in available().items():
            gc.collect()
            start = clock()
            candidate(scores, flat, keep)
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss begins with the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def extra_memory(name: str, size: int) -> int:
    """Bytes that one call adds to the peak of this process, besides the masks."""
    candidate = CANDIDATES[name]
    candidate(*make_scores(10_000), 500)  # loads code and starts threads
    scores, flat = make_scores(size)
    before = peak_bytes()
    candidate(scores, flat, kept_count(DENSITY, size))
    masks = size if name in WRITES_MASKS else 0
    return max(0, peak_bytes() - before - masks)


def extra_memory_elsewhere(name: str, size: int, threads: int) -> int:
    """`extra_memory` in a fresh process: a peak never goes down again."""
    command = [sys.executable, __file__, "--memory-of", name, "--sizes", str(size), "--threads", str(threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(size: int, rounds: int, threads: int, clock: Clock) -> list[Row]:
    seconds = time_all(size, rounds, clock)
    rival = median(seconds[RIVAL])
    return [
        Row(
            candidate=name,
            scores=size,
            median_s=median(taken),
            fastest_s=min(taken),
            speedup=rival / median(taken),
            extra_bytes_per_score=extra_memory_elsewhere(name, size, threads) / size,
        )
        for name, taken in seconds.items()
    ]


def show(rows: list[Row]) -> None:
    print(f"\n{rows[0].scores:,} scores, {DENSITY:.0%} kept")
    print(f"{'':20}{'median':>12}{'fastest':>12}{'vs topk':>10}{'extra memory':>22}")
    for row in rows:
        extra = row.extra_bytes_per_score * row.scores / 2**20
        print(
            f"{row.candidate:20}{row.median_s * 1e3:9.2f} ms{row.fastest_s * 1e3:9.2f} ms{row.speedup:9.1f}×"
            f"{extra:9.1f} MiB {row.extra_bytes_per_score:5.2f} B/score"
        )


def machine(threads: int) -> dict[str, str | int]:
    return {
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "processor": processor(),
        "instruction_set": door.isa(),
        "threads": threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e6,1e7,1e8", help="numbers of scores, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="how often each candidate runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_own_time(parser)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--memory-of", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    clock = clock_of(parser, chosen)
    torch.set_num_threads(chosen.threads)
    sizes = [int(float(size)) for size in chosen.sizes.split(",")]
    if chosen.memory_of:
        print(extra_memory(chosen.memory_of, sizes[0]))
        return
    print(" · ".join(f"{name} {value}" for name, value in machine(chosen.threads).items()))
    results = []
    for size in sizes:
        rows = measure(size, chosen.rounds, chosen.threads, clock)
        show(rows)
        results += rows
    if chosen.json:
        text = json.dumps({"machine": machine(chosen.threads), "rows": [asdict(row) for row in results]}, indent=2)
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
