"""Sparse linear layers, and compiled steps, on large batches: whole, and in parts of 128 samples as they are computed.

    python benchmarks/large_batches.py --threads 1

The rate column is samples per second over that with 128 samples: 1 means that size costs nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _common import sgd
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur import Masks
from secateur._base import door
from secateur.sparse import compile_step
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


def measure(plan: LayerPlan, density: float, seconds: float) -> list[dict[str, Any]]:
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


def step_of(density: float, width: int, size: int) -> Callable[[], object]:
    """Return a compiled step of a perceptron with two hidden layers on a batch: forward, backward and update."""
    torch.manual_seed(0)
    layers = nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    model = nn.Sequential(*layers)
    masks = Masks({n: torch.rand(p.shape) < density for n, p in model.named_parameters() if p.dim() == 2})
    step = compile_step(model, masks, cross_entropy, sgd(model))
    x, y = torch.randn(size, 784), torch.randint(10, (size,))
    return lambda: step(x, y)


def steps(width: int, seconds: float) -> list[dict[str, Any]]:
    """Measure compiled steps on batches of several sizes, and print their rates."""
    print(
        f"\n| compiled step of 784-{width}-{width}-10, kept | " + " | ".join(f"{s:,} [ms] | rate" for s in SIZES) + " |"
    )
    print("|---|" + "---|---|" * len(SIZES))
    found = []
    for density in DENSITIES:
        calls = {str(size): step_of(density, width, size) for size in SIZES}
        times = interleaved(calls, seconds=seconds, statistic=min)
        found.append({"density": density, "name": "step", **times})
        rates = [times[str(SIZES[0])] / SIZES[0] * size / times[str(size)] for size in SIZES]
        cells = [f"{1e3 * times[str(size)]:.1f} | {rate:.2f}" for size, rate in zip(SIZES, rates, strict=True)]
        print(f"| {density:.0%} | " + " | ".join(cells) + " |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=5.0, help="for each density and size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--steps", action="store_true", help="the compiled steps alone")
    parser.add_argument("--quick", action="store_true", help="64 wide, a twentieth of a second")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    width, seconds = (64, 0.05) if args.quick else (args.width, args.seconds)
    print(
        f"{processor()}, {args.threads} threads, kernels: {door.isa()}, torch {torch.__version__}; {width} × {width}\n"
    )
    print("| kept | samples | forward [ms], whole | in parts | rate | with gradients [ms], whole | in parts | rate |")
    print("|---|---|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    for density in () if args.steps else DENSITIES:
        plan = plan_layer(torch.rand(width, width, generator=torch.Generator().manual_seed(0)) < density)
        rows = measure(plan, density, seconds)
        found += rows
        for row in rows:
            cells = [f"{density:.0%}", f"{row['samples']:,}"]
            for kind in ("forward", "both"):
                rate = rows[0][f"parts, {kind}"] / SIZES[0] * row["samples"] / row[f"parts, {kind}"]
                cells += [f"{1e3 * row[f'whole, {kind}']:.1f}", f"{1e3 * row[f'parts, {kind}']:.1f}", f"{rate:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
    found += steps(width, seconds)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
