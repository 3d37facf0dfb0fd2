"""How long a trace and a plan take, and how both grow.

    python benchmarks/coupling.py            # ResNet-50, dense-concat nets, Llama-shaped models on meta
    python benchmarks/coupling.py --quick    # the smallest of each

Half of the units of each group go, by random scores. "trace" is `coupling.trace`; "units" finds groups and chooses;
"plan" cuts a meta copy, runs it beside the record, and freezes what differs. Memory is the largest resident size of
a process of its own beyond what it had before the trace. `--own-time` counts the process's own time, for busy machines.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import coupling
from secateur.costing import Call
from secateur.shrinking._plan import plan
from secateur.shrinking.cuts import cut_
from secateur.shrinking.units import wish_of

Case = tuple[nn.Module, tuple[Tensor, ...]]


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * 4
        sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o)) for i, o, k, s in sizes
        )
        passes = stride == 1 and inputs == out
        down = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.down = nn.Identity() if passes else down

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.body[1](F.relu(self.body[0](x))))
        return F.relu(self.body[2](y) + self.down(x))


def resnet50() -> Case:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for k, depth in enumerate((3, 4, 6, 3)):
        for j in range(depth):
            layers.append(Bottleneck(inputs, 64 << k, 2 if k and not j else 1))
            inputs = 256 << k
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))
    return model, (torch.randn(1, 3, 224, 224),)


class DenseConcat(nn.Module):
    def __init__(self, layers: int, growth: int = 12) -> None:
        super().__init__()
        widths = [24 + k * growth for k in range(layers)]
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in widths)
        self.convs = nn.ModuleList(nn.Conv2d(n, growth, 3, padding=1) for n in widths)
        self.head = nn.Linear(24 + layers * growth, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            parts.append(conv(F.relu(norm(torch.cat(parts, 1)))))
        return self.head(torch.cat(parts, 1).mean((2, 3)))


def dense_concat(layers: int) -> Case:
    return DenseConcat(layers), (torch.randn(1, 3, 8, 8),)


class Rms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Layer(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        c, wide = config, config.groups * config.width
        self.config, self.one, self.two = c, Rms(c.size), Rms(c.size)
        self.q, self.o = nn.Linear(c.size, c.size, bias=False), nn.Linear(c.size, c.size, bias=False)
        self.k, self.v = nn.Linear(c.size, wide, bias=False), nn.Linear(c.size, wide, bias=False)
        self.gate, self.up = nn.Linear(c.size, c.inner, bias=False), nn.Linear(c.size, c.inner, bias=False)
        self.down = nn.Linear(c.inner, c.size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        c, h = self.config, self.one(x)
        q = self.q(h).view(b, t, c.heads, c.width).transpose(1, 2)
        k, v = (each(h).view(b, t, c.groups, c.width).transpose(1, 2) for each in (self.k, self.v))
        n = c.heads // c.groups
        k, v = (each[:, :, None].expand(b, c.groups, n, t, c.width).reshape(b, c.heads, t, c.width) for each in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.09)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        h = self.two(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def llama(layers: int) -> Case:
    """Widths of a model of 7 billion parameters at 32 layers, with 8 groups of keys."""
    with torch.device("meta"):
        config = SimpleNamespace(size=4096, heads=32, groups=8, width=128, inner=14336)
        blocks = [Layer(config) for _ in range(layers)]
        model = nn.Sequential(nn.Embedding(32000, 4096), *blocks, Rms(4096), nn.Linear(4096, 32000, bias=False))
    return model, (torch.zeros(1, 128, dtype=torch.long, device="meta"),)


CASES: dict[str, Callable[[], Case]] = {
    "ResNet-50, 224 x 224": resnet50,
    **{f"dense-concat, {n} layers": (lambda n=n: dense_concat(n)) for n in (50, 100, 200)},
    **{f"Llama-shaped, {n} layers": (lambda n=n: llama(n)) for n in (8, 16, 32)},
}
QUICK = ("ResNet-50, 224 x 224", "dense-concat, 50 layers", "Llama-shaped, 8 layers")


def measure(name: str, own_time: bool) -> tuple[int, int, float, float, float, float]:
    """Measure one case in this process; torch's own imports of a first trace are done before."""
    small = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    coupling.trace(small, torch.zeros(1, 1, 5, 5))
    clock = time.process_time if own_time else time.perf_counter
    model, inputs = CASES[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = clock()
    found = coupling.trace(model, *inputs)
    traced = clock()
    wish = wish_of(found, np.random.default_rng(0).random(found.count), 0.5)
    chosen = clock()
    made = plan(model, found, wish, Call(inputs, {}))
    planned = clock()
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    twin = coupling.on_meta(model)
    cut_(twin, made)
    counts = [sum(p.numel() for p in each.parameters()) for each in (model, twin)]
    return counts[0], counts[1], traced - start, chosen - traced, planned - chosen, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest of each")
    parser.add_argument(
        "--own-time", action="store_true", help="the processor's time for this process, not the clock's"
    )
    args = parser.parse_args()
    print(
        "| model | parameters | after | trace [s] | units [s] | plan [s] | memory [GB] |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for name in QUICK if args.quick else CASES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            whole, after, *times, memory = pool.apply(measure, (name, args.own_time))
        figures = " | ".join(f"{each:.2f}" for each in (*times, memory))
        print(f"| {name} | {whole:,} | {after:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
