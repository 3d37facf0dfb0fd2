"""Linear layers in bfloat16 whose weights survive in blocks of 64 outputs × 2 inputs, against single weights and dense.

    python benchmarks/paired_blocks.py --seconds 6

As `half_precision.py`, whose dense ways these are: the best float32 (torch, oneDNN) and the best bfloat16 (autocast,
or a layer held in bfloat16). At each density, random blocks and as many random single weights, under autocast with
float32 masters, by the kernels for bfloat16; blocks by the faster of those for blocks and those for single weights, as
`sparsify` would time them. Training is forward and both gradients; values are rounded at each step.
On one thread times are the thread's own, so that waiting for other processes does not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from _common import by_layer, where
from half_precision import TURN, dense_ways, infer, train
from torch import Tensor, nn

from secateur._base import door
from secateur.sparse import SparseLinear
from secateur.sparse.plans import PAIRED, paired_of
from secateur.sparse.timing import interleaved

SHAPES = ((768, 3072), (3072, 768), (4096, 4096))  # inputs, outputs
BATCHES = (1, 8, 128, 1024)
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
MODES = ("inference", "training")


def block_mask(layer: nn.Linear, density: float) -> Tensor:
    """A random mask of whole blocks."""
    generator = torch.Generator().manual_seed(0)
    tall, wide = PAIRED
    kept = torch.rand(layer.out_features // tall, layer.in_features // wide, generator=generator) < density
    return kept.repeat_interleave(tall, 0).repeat_interleave(wide, 1)


def blocks_chosen(layer: nn.Linear, density: float, x: Tensor, *, training: bool) -> tuple[SparseLinear, str]:
    """The layer with blocks, multiplied as timing its kernels says, and a mark where that is as single weights."""
    made = SparseLinear.from_dense(layer, block_mask(layer, density))
    assert paired_of(made.plan) is not None
    made.let_choose(settled=None)
    made.__dict__.pop("_choices")  # between its kernels for bfloat16 alone
    found = made.store_for_training(x.clone().requires_grad_()) if training else made.blocks_at(x)
    assert found is not None
    return made, "" if found.blocks else "ˢ"


def single_weights(layer: nn.Linear, density: float) -> SparseLinear:
    """The layer with as many single weights."""
    generator = torch.Generator().manual_seed(0)
    return SparseLinear.from_dense(layer, torch.rand(layer.weight.shape, generator=generator) < density)


def calls_for(layer: nn.Linear, x: Tensor) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """What is timed, by name; and the marks of the blocks' cells."""
    marks: dict[str, str] = {}
    calls: dict[str, Callable[[], None]] = {}
    for name, (way, cast) in dense_ways(layer).items():
        own = x.bfloat16() if name == "bfloat16" else x
        calls[f"{name}, inference"] = partial(infer, way, own, cast)
        calls[f"{name}, training"] = partial(train, way, list(way.parameters()), own, cast)
    for density in DENSITIES:
        for mode in MODES:
            single = single_weights(layer, density)  # of its own: training would have inference round anew
            blocks, marks[f"{density:.0%}, {mode}"] = blocks_chosen(
                layer, density, x.bfloat16(), training=mode == "training"
            )
            for name, sparse in (("blocks", blocks), ("single", single)):
                step = (
                    partial(train, sparse, list(sparse.parameters())) if mode == "training" else partial(infer, sparse)
                )
                calls[f"{density:.0%} {name}, {mode}"] = partial(step, x.bfloat16(), True)
    return calls, marks


def rows_of(found: dict[str, float], marks: dict[str, str], size: str, batch: int) -> list[str]:
    lines = []
    for mode in MODES:
        took = {name.removesuffix(f", {mode}"): 1e3 * t for name, t in found.items() if name.endswith(mode)}
        full = min(took["float32"], took.get("float32 through oneDNN", took["float32"]))
        half = min(took["autocast"], took["bfloat16"])
        cells = [size, f"{batch:,}", mode, f"{full:.2f}", f"{half:.2f}"]
        for density in DENSITIES:
            single, blocks = took[f"{density:.0%} single"], took[f"{density:.0%} blocks"]
            mark = marks[f"{density:.0%}, {mode}"]
            cells.append(f"{single:.2f} → {blocks:.2f}{mark} ({full / blocks:.1f} / {half / blocks:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each shape and batch")
    parser.add_argument("--only", type=int, nargs=2, metavar=("INPUTS", "OUTPUTS"), help="one layer")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--quick", action="store_true", help="128 wide, a twentieth of a second")
    args = parser.parse_args()
    if door.native is None:
        parser.error(f"there are no compiled kernels: {door.why_not}")
    torch.set_num_threads(args.threads)
    shapes, seconds = (((128, 128),), 0.05) if args.quick else (SHAPES, args.seconds)
    shapes = (tuple(args.only),) if args.only else shapes
    print(f"{where(args)}; bfloat16 through {door.native.half_set()}\n")
    print("Times in ms: single weights → blocks of 64 × 2 (over the best float32 / the best bfloat16).")
    print("ˢ: timing chose the kernels for single weights for these blocks.\n")
    heads = [
        "inputs → outputs",
        "samples",
        "mode",
        "best float32",
        "best bfloat16",
        *(f"{d:.0%} kept" for d in DENSITIES),
    ]
    clock = time.thread_time if args.threads == 1 else time.perf_counter

    def measure(layer: nn.Module, x: Tensor, label: str) -> tuple[object, str]:
        calls, marks = calls_for(layer, x)
        found = interleaved(calls, seconds=seconds, sample=TURN, clock=clock)
        return {**found, **marks}, "\n".join(rows_of(found, marks, label, len(x)))

    by_layer(heads, shapes, args.batches, measure, args.json)


if __name__ == "__main__":
    main()
