"""What SNIP itself costs: the whole of `secateur.prune` against one bare forward and backward on the same batch.

    python benchmarks/scoring.py --json scoring.json

Three candidates run in turn, A B C A B C, in one process, on the same network: the bare pass (`loss.backward()`, as
every training step does), SNIP whole (score, select, write the zeros), and the textbook form (an indicator for every
weight, all scores concatenated, torch.topk). Figures are medians and ratios to the bare pass of the same round.
Memory is the peak resident size of a process of its own, as a ratio to that of the bare pass.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from _common import add_own_time, clock_of
from selection import Clock, machine, peak_bytes
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from secateur import methods, prunable, prune
from secateur.lab.models import build

DENSITY = 0.05
NETWORKS = {
    "mlp-784-4096-4096-10": ((784,), 128),
    "vgg-like": ((3, 32, 32), 128),
    "lenet-300-100": ((1, 28, 28), 100),
}
Batch = tuple[torch.Tensor, torch.Tensor]


def bare(model: nn.Module, batch: Batch) -> None:
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    model.zero_grad(set_to_none=True)  # every candidate gives back the gradients that it made


def snip(model: nn.Module, batch: Batch) -> None:
    prune(model, methods.snip(density=DENSITY), batches=[batch])


def textbook(model: nn.Module, batch: Batch) -> None:
    params = prunable(model)
    indicators = {name: torch.ones_like(p, requires_grad=True) for name, p in params.items()}
    masked = {name: p.detach() * indicators[name] for name, p in params.items()}
    loss = F.cross_entropy(functional_call(model, masked, batch[0]), batch[1])
    grads = torch.autograd.grad(loss, list(indicators.values()))
    flat = torch.cat([grad.abs().flatten() for grad in grads])
    threshold = torch.topk(flat, int(DENSITY * flat.numel())).values[-1]
    with torch.no_grad():
        for parameter, grad in zip(params.values(), grads, strict=True):
            parameter.mul_(grad.abs() >= threshold)


CANDIDATES: dict[str, Callable[[nn.Module, Batch], None]] = {
    "bare forward + backward": bare,
    "SNIP, secateur": snip,
    "SNIP, textbook": textbook,
}


def make(network: str) -> tuple[nn.Module, Batch]:
    shape, size = NETWORKS[network]
    model = build(network, num_classes=10, in_shape=shape, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, *shape, generator=generator)
    return model.train(), (x, torch.randint(10, (size,), generator=generator))


def time_all(network: str, rounds: int, clock: Clock) -> dict[str, list[float]]:
    model, batch = make(network)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    seconds: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    for turn in range(rounds + 1):
        for name, candidate in CANDIDATES.items():
            model.load_state_dict(initial)
            gc.collect()
            start = clock()
            candidate(model, batch)
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def peak_elsewhere(network: str, candidate: str, threads: int) -> int:
    """Peak resident bytes of one candidate in a fresh process: a peak never goes down again."""
    command = [sys.executable, __file__, "--networks", network, "--peak-of", candidate, "--threads", str(threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(network: str, rounds: int, threads: int, clock: Clock) -> list[dict[str, str | float]]:
    seconds = time_all(network, rounds, clock)
    reference = seconds["bare forward + backward"]
    peaks = {name: peak_elsewhere(network, name, threads) for name in CANDIDATES}
    base = peaks["bare forward + backward"]
    return [
        {
            "network": network,
            "candidate": name,
            "median_ms": 1e3 * median(taken),
            "time_ratio": median(t / r for t, r in zip(taken, reference, strict=True)),
            "peak_mib": peaks[name] / 2**20,
            "peak_ratio": peaks[name] / base,
        }
        for name, taken in seconds.items()
    ]


def show(rows: list[dict[str, str | float]]) -> None:
    print(f"\n{rows[0]['network']}, {DENSITY:.0%} kept")
    print(f"{'':26}{'median':>12}{'time ratio':>12}{'peak':>12}{'peak ratio':>12}")
    for row in rows:
        print(
            f"{row['candidate']:26}{row['median_ms']:9.2f} ms{row['time_ratio']:11.3f}×"
            f"{row['peak_mib']:8.0f} MiB{row['peak_ratio']:11.3f}×"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="separated by commas")
    parser.add_argument("--rounds", type=int, default=11, help="how often each candidate runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_own_time(parser)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--peak-of", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    clock = clock_of(parser, chosen)
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")  # the textbook form and a random batch may empty a layer: no matter here
    networks = chosen.networks.split(",")
    if chosen.peak_of:
        CANDIDATES[chosen.peak_of](*make(networks[0]))
        print(peak_bytes())
        return
    print(" · ".join(f"{name} {value}" for name, value in machine(chosen.threads).items()))
    results = []
    for network in networks:
        rows = measure(network, chosen.rounds, chosen.threads, clock)
        show(rows)
        results += rows
    if chosen.json:
        text = json.dumps({"machine": machine(chosen.threads), "rows": results}, indent=2)
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
