"""Linear layers of one bit, by XNOR and popcount, against the best dense ones.

    python benchmarks/binary_weights.py --seconds 4

The layer's weights are ±1, its samples ±1 in float32, which are packed to bits at each call. Beside it: the best dense
float32 (torch, oneDNN), the best dense bfloat16 (autocast, a layer held in bfloat16), and the same layer with one
weight in ten kept, whose places are bits too. On one thread times are the thread's own, so that waiting for other
processes does not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from _common import by_layer, where
from half_precision import TURN, dense_ways, infer
from torch import Tensor, nn

from secateur._base import door
from secateur.sparse import BinaryLinear
from secateur.sparse.timing import interleaved

SHAPES = ((784, 4096), (4096, 4096))  # inputs, outputs
BATCHES = (1, 8, 128)


def ways_of(layer: nn.Linear, x: Tensor) -> dict[str, Callable[[], None]]:
    """Each way of computing the layer."""
    ways: dict[str, Callable[[], None]] = {}
    for name, (way, cast) in dense_ways(layer).items():
        ways[name] = partial(infer, way, x.bfloat16() if name == "bfloat16" else x, cast)
    signs = torch.where(layer.weight.detach() >= 0, 1, -1).to(torch.int8)
    there = torch.rand(signs.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    for name, weights in (("bits", signs), ("ternary", signs * there)):
        ways[name] = partial(infer, BinaryLinear(weights, torch.ones(len(signs)), None), x, False)  # type: ignore[arg-type]
    return ways


def line(found: dict[str, float], size: str, batch: int) -> str:
    took = {name: 1e3 * t for name, t in found.items()}
    best = [
        min(took["float32"], took.get("float32 through oneDNN", took["float32"])),
        min(took["autocast"], took["bfloat16"]),
    ]
    cells = [size, f"{batch:,}", *(f"{t:.3f}" for t in best)]
    for name in ("bits", "ternary"):
        cells.append(f"{took[name]:.3f} ({' / '.join(f'{t / took[name]:.1f}' for t in best)})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each shape and batch")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times to FILE")
    parser.add_argument("--quick", action="store_true", help="64 wide, a twentieth of a second")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shapes, seconds = (((64, 64),), 0.05) if args.quick else (SHAPES, args.seconds)
    through = "torch" if door.native is None else door.native.binary_set()
    print(f"{where(args)}; bits counted by {through}\n")
    print("Times in ms; in brackets: over the best float32 / bfloat16.\n")
    clock = time.thread_time if args.threads == 1 else time.perf_counter

    def measure(layer: nn.Module, x: Tensor, label: str) -> tuple[object, str]:
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight.copy_(torch.where(layer.weight >= 0, 1.0, -1.0))
        signs = torch.where(x >= 0, 1.0, -1.0)
        found = interleaved(ways_of(layer, signs), seconds=seconds, sample=TURN, clock=clock)
        return found, line(found, label, len(x))

    by_layer(
        ["inputs → outputs", "samples", "float32", "bfloat16", "±1", "±1, 10% kept"],
        shapes, args.batches, measure, args.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
