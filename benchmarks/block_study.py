"""What pruning blocks of four outputs (4 × 1) by SNIP costs in error, and what it gains in speed, on MNIST.

    python benchmarks/block_study.py [--seeds 5] [--models LIST] [--runs DIR] [--json FILE] [--quick]
    python benchmarks/block_study.py --block 64x2 --densities 0.3 0.1 0.05 --models mlp-784-1024-1024-10 …

Each network is pruned before training by SNIP, once single weights and once blocks, at the same densities, seeds, first
weights and batches, and trained by the sparse engine. Runs are kept in DIR: give the command again to go on after an
interruption, or to see a finished table at once. The time of a training step is measured anew at every call, single
weights and blocks in turn, on one thread: medians of the thread's own time, so that waiting for other processes does
not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from torch.nn.functional import cross_entropy

from secateur._base import door
from secateur.lab import data
from secateur.lab.comparing import compare, deviation
from secateur.lab.experiment import Engine, Experiment, Ramp, Recipe, untrained
from secateur.lab.running import Progress, masks_for
from secateur.sparse import compile_step
from secateur.sparse.timing import interleaved, processor

DENSITIES = (0.10, 0.05, 0.02, 0.01)
SINGLE, FOURS = (1, 1), (4, 1)
# 15, 3 and 5 epochs of 54,000 images
STEPS = {"lenet-300-100": 8100, "lenet-5-caffe": 1620, "mlp-784-1024-1024-10": 2700}
# LeNet-5 with blocks diverged at 0.1 in a tenth of the steps, with either engine.
PEAKS = {"lenet-300-100": 0.1, "lenet-5-caffe": 0.03, "mlp-784-1024-1024-10": 0.1}
STUDIED = ("lenet-300-100", "lenet-5-caffe")


def recipe(steps: int, peak: float) -> Recipe:
    """SGD with momentum 0.9, batches of 100; the learning rate rises for 1/60 of the steps, then falls to 0."""
    return Recipe(steps=steps, rate=Ramp(peak=peak, steps=steps, warmup=steps // 60), evaluate_every=steps // 3)


def experiment(model: str, density: float, block: tuple[int, int], seed: int, steps: int) -> Experiment:
    """One run. The engine is asked for, so that none is trained slowly unnoticed."""
    training = recipe(steps, PEAKS[model])
    return Experiment(model, "mnist", "snip", density, training, seed=seed, block=block, engine=Engine.SPARSE)


@dataclass(frozen=True)
class Line:
    """One row of the table: errors of single weights and of blocks by seed, and seconds of a training step."""

    model: str
    density: float
    single: list[float]
    blocks: list[float]
    single_step: float
    blocks_step: float

    def __str__(self) -> str:
        apart = [b - s for s, b in zip(self.single, self.blocks, strict=True)]
        cells = [spread(self.single), spread(self.blocks), spread(apart, sign="+")]
        cells += [f"{1e6 * t:,.0f}" for t in (self.single_step, self.blocks_step)]
        return (
            f"| {self.model} | {self.density:.0%} | {' | '.join(cells)} | {self.single_step / self.blocks_step:.2f} |"
        )


def spread(errors: Sequence[float], *, sign: str = "") -> str:
    """Mean ± standard deviation over the seeds, in percent."""
    around = deviation(errors)
    return f"{100 * mean(errors):{sign}.2f}" + ("" if around is None else f" ± {100 * around:.2f}")


def stepper(asked: Experiment, dataset: data.Dataset) -> Callable[[], object]:
    """A training step of this experiment's network on its first batch."""
    model = untrained(asked)
    masks = masks_for(asked, dataset, torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    step = compile_step(model, masks, cross_entropy, optimizer)
    x, y = next(iter(data.batches(dataset.train, asked.recipe.batch, seed=0, stop=1)))
    return lambda: step(x, y)


def step_times(
    model: str, densities: Sequence[float], block: tuple[int, int], dataset: data.Dataset, seconds: float
) -> dict[tuple[float, tuple[int, int]], float]:
    """Median seconds of a training step, by density and block, all in turn."""
    asked = {(d, b): experiment(model, d, b, 0, STEPS[model]) for d in densities for b in (SINGLE, block)}
    found = interleaved(
        {str(key): stepper(e, dataset) for key, e in asked.items()}, seconds=seconds, clock=time.thread_time
    )
    return {key: found[str(key)] for key in asked}


def study(
    model: str,
    densities: Sequence[float],
    block: tuple[int, int],
    seeds: int,
    steps: int,
    runs: Path,
    seconds: float,
    data_dir: str | None,
) -> list[Line]:
    """Train what has not been trained, measure the steps."""
    grid = itertools.product(range(seeds), densities, (SINGLE, block))
    wanted = [experiment(model, density, block, seed, steps) for seed, density, block in grid]
    found = compare(wanted, root=runs, data_dir=data_dir, threads=1, on_progress=say)
    if found.failures:
        sys.exit("\n".join(f"{e.name}: {problem}" for e, problem in found.failures.items()))
    errors = {(row.experiment.density, row.experiment.block): row.errors() for row in found.rows}
    times = step_times(model, densities, block, data.load("mnist", data_dir=data_dir, seed=0), seconds)
    return [Line(model, d, errors[d, SINGLE], errors[d, block], times[d, SINGLE], times[d, block]) for d in densities]


def say(progress: Progress) -> None:
    if progress.step == progress.steps and progress.stage == "done":
        print(progress.experiment.name, file=sys.stderr, flush=True)


def table(lines: Sequence[Line], block: tuple[int, int]) -> str:
    """Everything, as docs/blocks.md shows it."""
    head = (
        f"| network | kept | error, single weights | error, {block[0]} × {block[1]} blocks | blocks − single "
        "| step, single [µs] | step, blocks [µs] | gain |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *map(str, lines)])


def main() -> None:
    """Run the study, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(STUDIED), help="networks with commas between them")
    parser.add_argument("--block", default="4x1", metavar="OUTPUTSxINPUTS", help="what is kept or cut as one [4x1]")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--steps", type=int, help="of training, where it is not what docs/blocks.md says")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/blocks"), help="where runs are kept")
    parser.add_argument("--data-dir", help="where MNIST is [default: $SECATEUR_DATA, cache]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing, for each network")
    parser.add_argument("--quick", action="store_true", help="one seed, one density, a tenth of the steps")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        data.load("mnist", data_dir=args.data_dir, seed=0)
    except data.DataError as problem:
        sys.exit(f"the study is of MNIST: {problem}")
    seeds, densities, part = (1, args.densities[1:2], 10) if args.quick else (args.seeds, args.densities, 1)
    tall, _, wide = args.block.partition("x")
    block = (int(tall), int(wide))
    lines: list[Line] = []
    for model in args.models.split(","):
        lines += study(
            model, densities, block, seeds, (args.steps or STEPS[model]) // part, args.runs, args.seconds, args.data_dir
        )
    where = f"{processor()}, 1 thread, torch {torch.__version__}, kernels: {door.isa()}"
    print(f"\n{where}; {seeds} seeds; test error after the last step in percent, mean ± standard deviation\n")
    print(table(lines, block))
    if args.json is not None:
        whole = {
            "machine": where,
            "seeds": seeds,
            "block": block,
            "steps": STEPS,
            "lines": [asdict(line) for line in lines],
        }
        args.json.write_text(json.dumps(whole, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
