"""How fast the sparse kernels multiply, and what bounds them: the cache that the activations lie in.

    python benchmarks/sparse_kernels.py --json kernels.json

Two tables. The first gives the rate of each product on layers of the demo networks and on 4096 × 4096, at 5 % kept and
128 samples. The second is a roofline by experiment: the same number of weights and multiplications, spread over more
and more columns, so that nothing changes but how much activation memory is touched. An unstructured product reads one
line of activations for each weight, so its rate can be no better than the cache delivers those lines.

One thread unless told otherwise. Rates are medians, 2 floating-point operations for each weight and sample.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from selection import machine
from torch import Tensor

from secateur.sparse.calls import sparse_chain
from secateur.sparse.plans import plan_layer

SAMPLES = 128
LAYERS = {"784 → 300": (300, 784), "300 → 100": (100, 300), "4096 → 4096": (4096, 4096)}
PER_ROW = 64  # weights in each row of the second table
Row = dict[str, str | float]


def rate(call: Callable[[], object], weights: int, rounds: int) -> float:
    """GFLOP/s of a call that multiplies each weight with each sample once."""
    once = _seconds(call, 1)
    repeat = max(1, int(0.01 / once))  # at least 10 ms a sample: clocks are coarse
    seconds = median(_seconds(call, repeat) / repeat for _ in range(rounds))
    return 2 * weights * SAMPLES / seconds / 1e9


def _seconds(call: Callable[[], object], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return time.perf_counter() - start


def measure(name: str, mask: Tensor, rounds: int) -> Row:
    """Rates of forward, of the gradient of the weights, and of both gradients together, for one mask."""
    plan = plan_layer(mask)
    values = torch.randn(plan.kept, requires_grad=True)
    x = torch.randn(SAMPLES, plan.columns)
    with_input = x.clone().requires_grad_()
    dy = torch.randn(SAMPLES, plan.rows)

    def forward() -> object:
        with torch.no_grad():
            return sparse_chain(x, (plan,), (values,), (None,))

    def backward_of(inputs: Tensor, wanted: list[Tensor]) -> Callable[[], object]:
        y = sparse_chain(inputs, (plan,), (values,), (None,))
        return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)

    return {
        "layer": name,
        "kept": plan.kept,
        "touched_kib": plan.columns * SAMPLES * 4 / 1024,
        "forward": rate(forward, plan.kept, rounds),
        "weights' gradient": rate(backward_of(x, [values]), plan.kept, rounds),
        "both gradients": 2 * rate(backward_of(with_input, [with_input, values]), plan.kept, rounds),
    }


def layers(rounds: int) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    return [measure(name, torch.rand(shape, generator=generator) < 0.05, rounds) for name, shape in LAYERS.items()]


def roofline(rounds: int) -> list[Row]:
    """The same weights per row and in all, over ever more columns."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for columns in (64, 256, 1024, 4096, 16384):
        mask = torch.zeros(1024, columns, dtype=torch.bool)
        for row in mask:
            row[torch.randperm(columns, generator=generator)[:PER_ROW]] = True
        rows.append(measure(f"{columns} columns", mask, rounds))
    return rows


def show(title: str, rows: list[Row]) -> None:
    rates = ("forward", "weights' gradient", "both gradients")
    print(f"\n{title}, GFLOP/s\n{'':16}{'kept':>10}{'activations':>14}" + "".join(f"{name:>20}" for name in rates))
    for row in rows:
        figures = "".join(f"{row[name]:20.1f}" for name in rates)
        print(f"{row['layer']:16}{row['kept']:10,}{row['touched_kib']:10.0f} KiB{figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="samples of each figure")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(" · ".join(f"{name} {value}" for name, value in machine(chosen.threads).items()))
    found = {"layers": layers(chosen.rounds), "roofline": roofline(chosen.rounds)}
    show("5 % kept, 128 samples", found["layers"])
    show(f"1024 rows of {PER_ROW} weights, 128 samples", found["roofline"])
    if chosen.json:
        text = json.dumps({"machine": machine(chosen.threads), **found}, indent=2)
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
