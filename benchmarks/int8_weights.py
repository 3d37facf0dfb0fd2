"""Sparse linear layers with weights of eight bits against dense ones, in speed, memory and error.

    python benchmarks/int8_weights.py --seconds 6
    python benchmarks/int8_weights.py --error --seeds 3

Speed: a layer that `secateur.sparse.quantize` makes of a random mask, samples rounded at each call, against the best
dense float32 (torch, oneDNN), the best dense bfloat16 (autocast, a layer held in bfloat16), torch's own dense int8
(`torch.ao.quantization.quantize_dynamic`), and the bfloat16 kernels on the same mask. On one thread times are the
thread's own, so that waiting for other processes does not count.

Error: LeNet-300-100 on MNIST, pruned by SNIP before training, trained, then rounded: test error before and after.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _common import by_layer, where
from half_precision import TURN, dense_ways, infer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur import Masks, methods, prune
from secateur._base import door
from secateur.lab import data, models
from secateur.lab.comparing import deviation
from secateur.sparse import SparseLinear, compile_step, quantization_of, quantize
from secateur.sparse.timing import interleaved

SHAPES = ((768, 3072), (3072, 768), (4096, 4096))  # inputs, outputs
BATCHES = (1, 8, 128, 1024)
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)


def torch_int8(layer: nn.Linear) -> nn.Module | None:
    """torch's own dense layer of eight bits, if this torch has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
        except (AttributeError, RuntimeError):
            return None


def ways_of(layer: nn.Linear, x: Tensor) -> dict[str, Callable[[], None]]:
    """Each way of computing the layer."""
    ways: dict[str, Callable[[], None]] = {}
    for name, (way, cast) in dense_ways(layer).items():
        ways[name] = partial(infer, way, x.bfloat16() if name == "bfloat16" else x, cast)
    if (theirs := torch_int8(layer)) is not None:
        ways["int8"] = partial(infer, theirs, x, False)
    for density in DENSITIES:
        mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < density
        small: Any = quantize(layer, Masks({"weight": mask}))
        ways[f"{density:.0%} int8"] = partial(infer, small, x, False)
        ways[f"{density:.0%} bfloat16"] = partial(infer, SparseLinear.from_dense(layer, mask), x.bfloat16(), True)
    return ways


def line(found: dict[str, float], size: str, batch: int) -> str:
    took = {name: 1e3 * t for name, t in found.items()}
    full = min(took["float32"], took.get("float32 through oneDNN", took["float32"]))
    best = [full, min(took["autocast"], took["bfloat16"]), took.get("int8", float("nan"))]
    cells = [size, f"{batch:,}", *(f"{t:.2f}" for t in best)]
    for density in DENSITIES:
        own, half = took[f"{density:.0%} int8"], took[f"{density:.0%} bfloat16"]
        cells.append(f"{own:.2f} ({' / '.join(f'{t / own:.1f}' for t in (*best, half))})")
    return "| " + " | ".join(cells) + " |"


def speed(args: argparse.Namespace) -> None:
    """Print the table of times."""
    shapes, seconds = (((64, 64),), 0.05) if args.quick else (SHAPES, args.seconds)
    shapes = (tuple(args.only),) if args.only else shapes
    through = door.native.int8_set() if door.native is not None else ""
    print(f"{where(args)}; int8 through {through or 'torch'}\n")
    print("Times in ms; in brackets: over the best float32 / bfloat16 / torch's int8 / the sparse bfloat16 kernels.\n")
    heads = [
        "inputs → outputs",
        "samples",
        "float32",
        "bfloat16",
        "int8 of torch",
        *(f"{d:.0%} kept" for d in DENSITIES),
    ]
    clock = time.thread_time if args.threads == 1 else time.perf_counter

    def measure(layer: nn.Module, x: Tensor, label: str) -> tuple[object, str]:
        found = interleaved(ways_of(layer, x), seconds=seconds, sample=TURN, clock=clock)
        return found, line(found, label, len(x))

    by_layer(heads, shapes, args.batches, measure, args.json)


@torch.no_grad()
def wrong(model: nn.Module, test: data.Examples) -> float:
    """The share of test images that the model gets wrong."""
    return (model(test.x).argmax(1) != test.y).float().mean().item()


def trained(density: float, seed: int, steps: int, data_dir: str | None) -> tuple[nn.Module, Masks, data.Dataset]:
    """LeNet-300-100, pruned by SNIP and trained by SGD with momentum."""
    dataset = data.load("mnist", data_dir=data_dir, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    model = models.build("lenet-300-100", generator=generator)
    first = next(iter(data.batches(dataset.train, 100, seed=seed, stop=1)))
    masks = prune(model, methods.snip(density=density), batches=[first])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = compile_step(model, masks, cross_entropy, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for x, y in data.batches(dataset.train, 100, seed=seed, stop=steps):
        step(x, y)
        schedule.step()
    step.write_back()
    return model.eval(), masks, dataset


def spread(numbers: Sequence[float]) -> str:
    around = deviation(numbers)
    return f"{100 * mean(numbers):.2f}" + ("" if around is None else f" ± {100 * around:.2f}")


def error(args: argparse.Namespace) -> None:
    """Print the table of errors."""
    torch.set_num_threads(1)
    print(f"{where(args)}; LeNet-300-100, MNIST, {args.seeds} seeds, {args.steps} steps; test error in percent\n")
    print(
        "| kept | float32 | int8 | int8 − float32 | outputs off by, % | bytes of dense float32 |\n"
        "|---|---|---|---|---|---|"
    )
    for density in (0.3, 0.1, 0.05):
        rows: list[tuple[float, float, float, float]] = []
        for seed in range(args.seeds):
            model, masks, dataset = trained(density, seed, args.steps, args.data_dir)
            small = quantize(model, masks, example_inputs=dataset.test.x)
            report = quantization_of(small)
            size = sum(each.bytes for each in report.layers) / sum(4 * mask.numel() for mask in masks.values())
            rows.append((wrong(model, dataset.test), wrong(small, dataset.test), report.output_error or 0.0, size))
        before, after, off, sizes = (list(column) for column in zip(*rows, strict=True))
        apart = [b - a for a, b in zip(before, after, strict=True)]
        cells = (f"{density:.0%}", spread(before), spread(after), spread(apart), spread(off), f"{mean(sizes):.3f}")
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure, print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each shape and batch")
    parser.add_argument("--only", type=int, nargs=2, metavar=("INPUTS", "OUTPUTS"), help="one layer")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--error", action="store_true", help="the error on MNIST, not the speed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2700, help="5 epochs of 54,000 images")
    parser.add_argument("--data-dir", help="where MNIST is [default: $SECATEUR_DATA, cache]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times to FILE")
    parser.add_argument("--quick", action="store_true", help="64 wide, a twentieth of a second")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    error(args) if args.error else speed(args)


if __name__ == "__main__":
    main()
