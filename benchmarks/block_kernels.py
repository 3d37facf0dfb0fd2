"""How much faster a linear layer runs when its weights survive in blocks of four outputs (4 × 1).

    python benchmarks/block_kernels.py [--seconds S] [--json FILE] [--quick]

For each layer and density, in turn and on one thread: forward and backward (gradients of input, weights and bias) of
random single weights and of random blocks, as many of either, through the kernels' own calls. Packing row-major
samples into the kernels' layout and back is included, as in an ordinary torch loop; in the fused step
(benchmarks/block_study.py) only the first layer's input is packed. Figures are medians of the thread's own time, so
that waiting for other processes does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur._base import door
from secateur.sparse.calls import addresses
from secateur.sparse.plans import BLOCK_ROWS, LayerPlan, native_chain, plan_layer
from secateur.sparse.timing import interleaved, processor

LAYERS = ((4096, 4096, 128), (300, 784, 100), (100, 300, 100))  # outputs, inputs, samples
DENSITIES = (0.05, 0.02, 0.01)
PARTS = ("forward", "input gradient", "weight gradient", "whole")


@dataclass(frozen=True)
class Line:
    """Median seconds of single weights and of blocks, by part."""

    layer: tuple[int, int, int]
    density: float
    single: dict[str, float]
    blocks: dict[str, float]

    def __str__(self) -> str:
        rows, columns, samples = self.layer
        gains = " | ".join(f"{self.single[part] / self.blocks[part]:.2f}" for part in PARTS)
        flops = 6.0 * rows * columns * samples * self.density
        rates = " | ".join(f"{flops / times['whole'] / 1e9:.0f}" for times in (self.single, self.blocks))
        micros = " | ".join(f"{1e6 * times['whole']:,.0f}" for times in (self.single, self.blocks))
        return f"| {columns} → {rows}, batch {samples} | {1 - self.density:.0%} | {gains} | {micros} | {rates} |"


def calls(plan: LayerPlan, x: Tensor, dy: Tensor) -> dict[str, Callable[[], object]]:
    """The parts of a training step of one layer."""
    chain, (samples, columns), rows = native_chain((plan,)).native, x.shape, dy.shape[1]
    values, bias = torch.randn(plan.kept), torch.randn(rows)
    work, y, dx = torch.empty(chain.work_floats(samples)), torch.empty_like(dy), torch.empty_like(x)
    dvalues, dbias = torch.empty_like(values), torch.empty_like(bias)
    kept = (values, bias, work, x, dy, y, dx, dvalues, dbias)  # addresses do not keep tensors alive

    def forward() -> None:
        assert kept
        chain.forward(
            addresses(values), addresses(bias), x.data_ptr(), columns, samples, columns, *addresses(work, y), 1,
        )  # fmt: skip

    def backward(weights: bool, inputs: bool) -> None:
        chain.backward(
            addresses(values), *addresses(work), dy.data_ptr(), rows, samples, rows,
            addresses(dvalues if weights else None), addresses(dbias if weights else None),
            *addresses(dx if inputs else None), False, 1,
        )  # fmt: skip

    def whole() -> None:
        forward()
        backward(True, True)

    parts = (forward, lambda: backward(False, True), lambda: backward(True, False), whole)
    return dict(zip(PARTS, parts, strict=True))


def measure(layer: tuple[int, int, int], density: float, seconds: float) -> Line:
    """Measure one layer at one density."""
    rows, columns, samples = layer
    generator = torch.Generator().manual_seed(0)
    x, dy = torch.randn(samples, columns, generator=generator), torch.randn(samples, rows, generator=generator)
    single = torch.rand(rows, columns, generator=generator) < density
    blocks = (torch.rand(rows // BLOCK_ROWS, columns, generator=generator) < density).repeat_interleave(BLOCK_ROWS, 0)
    plans = {"single": plan_layer(single), "blocks": plan_layer(blocks, blocks=True)}
    asked = {f"{kind} {part}": call for kind in plans for part, call in calls(plans[kind], x, dy).items()}
    found = interleaved(asked, seconds=seconds, clock=time.thread_time)
    times = {kind: {part: found[f"{kind} {part}"] for part in PARTS} for kind in plans}
    return Line(layer, density, times["single"], times["blocks"])


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each layer and density")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--quick", action="store_true", help="the smallest layer at 95 %% only, half a second")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if door.native is None:
        raise SystemExit(f"blocks have kernels of their own only where kernels are: {door.why_not}")
    layers, densities = (LAYERS[2:], DENSITIES[:1]) if args.quick else (LAYERS, DENSITIES)
    seconds = 0.5 if args.quick else args.seconds
    lines = [measure(layer, density, seconds) for layer in layers for density in densities]
    where = f"{processor()}, 1 thread, torch {torch.__version__}, kernels: {door.isa()}"
    print(f"{where}; speed of blocks over single weights\n")
    head = (
        "layer",
        "sparse",
        *PARTS[:3],
        "all three",
        "µs, single",
        "µs, blocks",
        "GFLOP/s, single",
        "GFLOP/s, blocks",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    print("\n".join(map(str, lines)))
    if args.json is not None:
        whole = {"machine": where, "lines": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(whole, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
