"""Sparse linear layers on large batches: whole, and in parts of 128 samples as they are computed.

    python benchmarks/large_batches.py --threads 1

The rate column is that of 128 samples over that of the batch, per sample: 1 means that size costs nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from secateur._base import door
from secateur.sparse.calls import _chain as chain
from secateur.sparse.plans import LayerPlan, plan_layer
from secateur.sparse.timing import interleaved, processor

SIZES, DENSITIES = (128, 1024, 2048), (0.1, 0.05, 0.02)
Call = Callable[[Tensor], Tensor]


def forward(call: Call, x: Tensor) -> None:
    with torch.no_grad():
        call(x)


def both(call: Call, x: Tensor, values: Tensor) -> None:
    x = x.detach().requires_grad_()
    y = call(x)
    torch.autograd.grad(y, [x, values], torch.ones_like(y))


def whole(call: Call, x: Tensor) -> Tensor:
    with patch.object(chain, "_parts", lambda rows: (rows,)):
        return call(x)


def measure(plan: LayerPlan, density: float, seconds: float) -> list[dict[str, float]]:
    values = torch.randn(plan.kept).requires_grad_()

    def parts(x: Tensor) -> Tensor:
        return chain.sparse_chain(x, (plan,), (values,), (None,))

    rows = []
    for size in SIZES:
        x = torch.randn(size, plan.columns)
        ways = {"parts": parts, "whole": partial(whole, parts)}
        calls = {f"{name}, forward": partial(forward, way, x) for name, way in ways.items()}
        calls |= {f"{name}, both": partial(both, way, x, values) for name, way in ways.items()}
        rows.append({"density": density, "samples": size, **interleaved(calls, seconds=seconds, statistic=min)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=5.0, help="for each density and size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--quick", action="store_true", help="64 wide, a twentieth of a second")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    width, seconds = (64, 0.05) if args.quick else (args.width, args.seconds)
    print(
        f"{processor()}, {args.threads} threads, kernels: {door.isa()}, torch {torch.__version__}; {width} × {width}\n"
    )
    print("| kept | samples | forward [ms], whole | in parts | rate | with gradients [ms], whole | in parts | rate |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    for density in DENSITIES:
        plan = plan_layer(torch.rand(width, width, generator=torch.Generator().manual_seed(0)) < density)
        rows = measure(plan, density, seconds)
        found += rows
        for row in rows:
            cells = [f"{density:.0%}", f"{row['samples']:,}"]
            for kind in ("forward", "both"):
                rate = rows[0][f"parts, {kind}"] / SIZES[0] * row["samples"] / row[f"parts, {kind}"]
                cells += [f"{1e3 * row[f'whole, {kind}']:.1f}", f"{1e3 * row[f'parts, {kind}']:.1f}", f"{rate:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
