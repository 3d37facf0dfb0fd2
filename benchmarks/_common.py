"""What the benchmarks of whole networks share: the candidates' training loop, the command line, the tables' heads."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from secateur._base import door
from secateur.lab.data import load
from secateur.sparse.layers import OneDnnLinear
from secateur.sparse.timing import processor


# ------------------------------------------------------------------ candidates
def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def loop(model: nn.Module, x: Tensor, y: Tensor, *, cast: bool = False) -> Callable[[], None]:
    """An ordinary training step, under bfloat16 autocast if `cast`."""
    optimizer = sgd(model)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def settle(*calls: Callable[[], object], seconds: float = 0.5) -> None:
    """Call each for a while: small calls find out by themselves how many threads are best, within 400 of them."""
    for call in calls:
        begin, done = time.perf_counter(), 0
        while done < 4 or (done < 400 and time.perf_counter() - begin < seconds):
            call()
            done += 1


def through_onednn(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
    return model


def grown_digits(count: int) -> tuple[Tensor, Tensor]:
    """Return the package's digits as 20 × 20 images in [0, 1], and their classes."""
    train = load("digits", seed=0).train
    small = train.x[:count] - train.x.min()  # as standardised, by one number for all pixels
    return interpolate(small / small.max(), size=(20, 20), mode="bilinear"), train.y[:count].clone()


# ------------------------------------------------------------------ the command line
def options(doc: str | None, *, quick: str) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark understands; `quick` says what --quick measures."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=8.0, help="for each network and density")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    return parser


def add_own_time(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--own-time", action="store_true", help="the thread's processor time; needs --threads 1")


def clock_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Callable[[], float]:
    """Return the clock that --own-time asks for, or end with a usage error."""
    if args.own_time and args.threads != 1:
        parser.error("--own-time counts one thread's time: add --threads 1")
    return time.thread_time if args.own_time else time.perf_counter


def where(args: argparse.Namespace) -> str:
    """Name the machine, and how it is used."""
    text = f"{processor()}, {args.threads} threads of {os.cpu_count()} cores, torch {torch.__version__}"
    return text + (", processor time" if getattr(args, "own_time", False) else "")


def say_where(args: argparse.Namespace, data: str) -> None:
    print(f"{where(args)}, kernels: {door.isa()}; masks by SNIP from {data}\n")


def write(args: argparse.Namespace, **found: object) -> None:
    """Write what was measured to the file that --json names."""
    if args.json is not None:
        whole = {"machine": where(args), "kernels": door.isa(), **found}
        args.json.write_text(json.dumps(whole, indent=1), encoding="utf-8")


# ------------------------------------------------------------------ tables
def head(title: str, densities: Sequence[float]) -> list[str]:
    """Return the first lines of a table with a column for each density."""
    columns = " | ".join(f"{1 - d:.0%} sparse" for d in densities)
    return [f"| {title} | {columns} |", "|---|" + "---|" * len(densities)]


def by_layer(
    heads: Sequence[str],
    shapes: Sequence[Sequence[int]],
    batches: Sequence[int],
    measure: Callable[[nn.Module, Tensor, str], tuple[object, str]],
    file: Path | None,
) -> None:
    """Print a table of linear layers, a line or more for each shape and batch, and write what `measure` returns first.

    `measure(layer, inputs, label)` returns what it found, and its lines of the table.
    """
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    report: dict[str, object] = {}
    for inputs, outputs in shapes:
        for batch in batches:
            label = f"{inputs} → {outputs}"
            found, lines = measure(nn.Linear(inputs, outputs), torch.randn(batch, inputs), label)
            report[f"{label}, {batch}"] = found
            print(lines, flush=True)
    if file:
        file.write_text(json.dumps(report, indent=1), encoding="utf-8")


def milliseconds(label: str, times: dict[str, float], *, digits: int = 3) -> str:
    """Return one line of the times behind a table."""
    return f"{label} [ms]: " + ", ".join(f"{name} {1e3 * t:.{digits}f}" for name, t in times.items())
