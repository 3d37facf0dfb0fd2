"""Feature boosting and suppression: what a small network loses, and what is skipped, counted and timed.

    SECATEUR_DATA=… nice python benchmarks/feature_boosting.py --seeds 3

A network of six convolutions with batch norms is trained on Fashion-MNIST (`--steps` of 100 images), boosted, and
trained on at d = 1, 0.8, 0.6, 0.4, each for `--tune` steps. "Trained on" is the same network, not boosted, with as many
steps. Times are of one image at a time and of 16, on one thread, in turns with the dense network, its batch norms
folded into neither; medians. `--wide` times VGG-16 for 32 × 32 images instead, with fresh weights: there the error
means nothing and is not shown. Nothing is removed from storage at any d.
"""

from __future__ import annotations

import argparse
import copy
import math
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.lab import data
from secateur.lab.comparing import deviation
from secateur.lab.data import Dataset
from secateur.replacing import BoostedConv, boost, boosting_price, count_skipped, suppress
from secateur.sparse.timing import processor
from secateur.turns import interleaved

DENSITIES = (1.0, 0.8, 0.6, 0.4)
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
SMALL = (16, 16, 0, 32, 32, 0, 64, 64)


def chain(widths: tuple[int, ...], channels: int) -> nn.Sequential:
    """Convolutions with batch norm and ReLU; 0 is a maximum over 2 × 2."""
    layers: list[nn.Module] = []
    for width in widths:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def train(model: nn.Module, dataset: Dataset, steps: int, rate: float, seed: int, begin: int) -> None:
    model.train()
    boosted = any(isinstance(module, BoostedConv) for module in model.modules())
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, y = data.batch_at(dataset.train, 100, seed=seed, step=begin + step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (loss + boosting_price(model) if boosted else loss).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent; in training's dense way of computing, batch statistics aside, since it is the same function."""
    wrong = 0
    with torch.enable_grad():  # nothing is skipped where gradients are recorded, and whole batches are faster
        for a, b in zip(x.split(500), y.split(500), strict=True):
            wrong += int((model.eval()(a).argmax(1) != b).sum())
    return 100 * wrong / len(y)


@torch.no_grad()
def times(dense: nn.Module, boosted: nn.Module, x: Tensor, seconds: float) -> tuple[float, float]:
    """Milliseconds of one forward of each."""
    both = {"dense": lambda: dense.eval()(x), "boosted": lambda: boosted.eval()(x)}
    found = interleaved(both, seconds=seconds)
    return 1000 * found["dense"], 1000 * found["boosted"]


def small(seeds: int, steps: int, tune: int, seconds: float) -> None:
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        dataset = data.load("fashion-mnist", seed=seed)
        images, labels = dataset.test.x, dataset.test.y
        torch.manual_seed(seed)
        dense = chain(SMALL, 1)
        train(dense, dataset, steps, 0.1, seed, 0)
        rows.setdefault("dense", []).append((error(dense, images, labels), 0.0))
        on = copy.deepcopy(dense)
        train(on, dataset, tune * len(DENSITIES), 0.02, seed, steps)
        rows.setdefault("trained on", []).append((error(on, images, labels), 0.0))
        boosted = boost(dense)
        for turn, density in enumerate(DENSITIES):
            suppress(boosted, density)
            train(boosted, dataset, tune, 0.02, seed, steps + turn * tune)
            skipped = 100 * count_skipped(boosted, images[:200]).fraction
            one, some = (times(dense, boosted, images[:count], seconds) for count in (1, 16))
            found = (error(boosted, images, labels), skipped, *one, *some)
            rows.setdefault(f"boosted, d = {density:g}", []).append(found)
    table(rows)


def wide(seconds: float) -> None:
    rows: dict[str, list[tuple[float, ...]]] = {}
    torch.manual_seed(0)
    dense, x = chain(VGG16, 3), torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        dense.train()(torch.randn(32, 3, 32, 32))
    for density in DENSITIES:
        boosted = boost(dense, density=density)
        found = 100 * count_skipped(boosted, x).fraction
        one, some = (times(dense, boosted, x[:count], seconds) for count in (1, 16))
        rows[f"VGG-16, d = {density:g}"] = [(float("nan"), found, *one, *some)]
    table(rows)


def table(rows: dict[str, list[tuple[float, ...]]]) -> None:
    print(
        "\n| network | error, % | skipped, % | dense, 1 image, ms | ms | faster | dense, 16 images, ms | ms | faster |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, found in rows.items():
        columns = list(zip(*found, strict=True))
        spread = f" ± {deviation(columns[0]):.2f}" if len(found) > 1 else ""
        cells = ["" if math.isnan(columns[0][0]) else f"{mean(columns[0]):.2f}{spread}", f"{mean(columns[1]):.1f}"]
        for dense, own in zip(columns[2::2], columns[3::2], strict=True):
            cells += [f"{mean(dense):.2f}", f"{mean(own):.2f}", f"{mean(dense) / mean(own):.2f}"]
        print(f"| {' | '.join([name, *cells, *[''] * (8 - len(cells))])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--tune", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each time")
    parser.add_argument("--wide", action="store_true", help="VGG-16 instead, times alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, 1 thread, torch {torch.__version__}")
    if options.wide:
        wide(options.seconds)
    else:
        small(options.seeds, options.steps, options.tune, options.seconds)


if __name__ == "__main__":
    main()
