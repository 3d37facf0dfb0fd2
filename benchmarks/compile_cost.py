"""What it costs to make a sparse layer or a compiled step of a large network: seconds, and peak memory over the model.

    python benchmarks/compile_cost.py [--quick] [--json FILE] [--width 5800] [--rounds 3]

Each case is a process of its own: it makes the dense model and its masks, and then one of

    compile_step   the step for SGD with momentum, from the model, its masks and an optimizer that has not stepped
    first step     the same, and one step on 16 samples: what is built at the first call counts too
    sparsify       `sparsify`, which stores the surviving weights in place of the dense ones
    plan           a plan of the first layer alone

The peak is how far the process's resident memory rises over where it was before the call (the kernel's VmHWM, set back
for this process), over the bytes of the dense weights. What the call returns is part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from secateur import Masks
from secateur._base import door
from secateur.sparse import BreakEven, Machine, compile_step, sparsify
from secateur.sparse.plans import plan_layer
from secateur.sparse.timing import processor

CASES = ("compile_step", "first step", "sparsify", "plan")
LAYERS = 3


def network(width: int, density: float) -> tuple[nn.Sequential, Masks]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    return model, Masks({n: torch.rand(p.shape) < density for n, p in model.named_parameters() if p.dim() == 2})


def status(field: str) -> int:
    """Return a size of this process in bytes, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}: this benchmark needs Linux")


def work(case: str, model: nn.Sequential, masks: Masks, width: int) -> Callable[[], object]:
    if case == "plan":
        first = next(iter(masks.values()))
        return lambda: plan_layer(first)
    if case == "sparsify":
        # Told and not timed: what is measured is the work, not the question whether it pays.
        machine = Machine("told", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=1.0),))
        return lambda: sparsify(model, masks, machine=machine)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(16, width), torch.randint(width, (16,))

    def compiled() -> object:
        step = compile_step(model, masks, cross_entropy, optimizer)
        if case == "first step":
            step(x, y)
        return step

    return compiled


def one(case: str, width: int, density: float, threads: int) -> dict[str, float]:
    """Measure one case in this process."""
    torch.set_num_threads(threads)
    door.native  # noqa: B018 — loaded before anything is counted
    small, few = network(32, density)
    work(case, small, few, 32)()  # what is imported at a first use
    model, masks = network(width, density)
    call = work(case, model, masks, width)
    dense = sum(4 * p.numel() for p in model.parameters())
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is where we are
    before, start = status("VmRSS"), time.perf_counter()
    made = call()
    seconds = time.perf_counter() - start
    peak, after = status("VmHWM") - before, status("VmRSS") - before
    del made
    return {"seconds": seconds, "peak": peak / dense, "kept": after / dense}


def measure(case: str, args: argparse.Namespace, density: float) -> dict[str, float]:
    """Measure one case in processes of its own, and return the medians."""
    command = [sys.executable, __file__, "--one", case, "--width", args.width, "--density", density]
    command += ["--threads", args.threads]
    runs = []
    for _ in range(args.rounds):
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 wide, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--width", type=int, default=5800, help=f"of each of {LAYERS} layers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--density", type=float, help="this one alone")
    parser.add_argument("--case", choices=CASES, help="this one alone")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.width, args.density, args.threads)))
        return
    if args.quick:
        args.width, args.rounds = 200, 1
    print(f"{processor()}, {args.threads} threads, torch {torch.__version__}; {LAYERS} layers of {args.width}²\n")
    print("| kept | case | seconds | peak over the dense model | held afterwards |\n|---|---|---|---|---|")
    found = []
    for density in (0.1, 0.5) if args.density is None else (args.density,):
        for case in CASES if args.case is None else (args.case,):
            row = measure(case, args, density)
            found.append({"density": density, "name": case, **row})
            print(
                f"| {density:.0%} | {case} | {row['seconds']:.2f} | {row['peak']:.2f} × | {row['kept']:.2f} × |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
