"""Tickets and pruning before training, measured: every part short, resumable, on one thread.

    python benchmarks/lottery_study.py                    # all parts
    python benchmarks/lottery_study.py --parts subset_sum residual --seeds 3

    subset_sum   how many numbers it takes to come within ε of a target by some subset (no data)
    gadget       each weight of a network of 4-6-2 units as a subset of n random products, and the gap (no data)
    width        the gap that random pruning leaves between a network and its target, over width (no data)
    residual     SNIP and SBP-SR at 98 % on a residual perceptron of 100 layers, MNIST
    deep         SNIP with and without isometry on a plain perceptron of 30 layers, MNIST
    prospect     SNIP and ProsPr at 99 % on LeNet-5-Caffe with a ReLU behind each layer, MNIST
    tickets      layer-wise IMP on LeNet-300-100 down to 3.6 %, against a new draw with the same masks, MNIST
    search       steps that IMP, PrAC and early-bird train until they have a ticket, LeNet-300-100, digits
    criteria     the mask criteria and the survivors' starts of "Deconstructing lottery tickets", LeNet-300-100, MNIST

What has been measured is kept in `lottery_study.json` beside this file, one line per run, and is not measured again.
Networks train by Adam on batches of 60 images for `--steps` steps (`residual` a third, `deep` and `prospect` half): a
fraction of an epoch, where papers train for tens of epochs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from _lottery_nets import Block, batch_at, drawn, error, lenet_5, lenet_300, train
from _lottery_theory import Line, gadget, subset_sum, width
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import methods, programs, tickets
from secateur._base.files import write_whole
from secateur.lab import data
from secateur.pruning import emptied_layers
from secateur.signals import edge_of_chaos_, orthogonal_, singular_values
from secateur.sparse.timing import processor

RECORD = Path(__file__).with_suffix(".json")


# ------------------------------------------------------------------ MNIST
def residual(seed: int, steps: int) -> Iterator[Line]:
    depth, wide = 98, 64
    for name, stable in (("snip", False), ("sbp_sr", True), ("sbp_sr, rescaled", True)):
        torch.manual_seed(seed)
        share = 1 / math.sqrt(depth) if stable else 1.0
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, wide), *(Block(wide, share) for _ in range(depth)))
        model.append(nn.Linear(wide, 10))
        edge_of_chaos_(model, generator=torch.Generator().manual_seed(seed))
        method = methods.snip(0.02) if name == "snip" else methods.sbp_sr(0.02, rescale="rescaled" in name)
        masks = sc.prune(model, method, [batch_at(seed, 10_000)])
        with sc.hold(model, masks):
            train(model, seed, steps // 3, 1e-3)
        least = min(layer.kept for layer in masks.layers())
        yield {"method": name, "empty": len(emptied_layers(masks)), "least": least, "error": error(model)}


def deep(seed: int, steps: int) -> Iterator[Line]:
    sizes = [784, *[100] * 29, 10]
    for name, density in itertools.product(("dense", "snip", "snip, orthogonal", "isometry"), (0.1,)):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for one, two in itertools.pairwise(sizes):
            layers += [nn.Linear(one, two), nn.Tanh()]
        model, g = nn.Sequential(*layers[:-1]), torch.Generator().manual_seed(seed)
        if name in ("dense", "snip"):
            for layer in model:
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_normal_(layer.weight, generator=g)
                    nn.init.zeros_(layer.bias)
        else:
            orthogonal_(model, generator=g)
        if name != "dense":
            method = methods.isometry(density) if name == "isometry" else methods.snip(density)
            masks = sc.prune(model, method, [batch_at(seed, 10_000 + k) for k in range(10)])
            sc.hold(model, masks)
        inner = {n: p for n, p in sc.prunable(model).items() if p.shape == (100, 100)}
        values = torch.cat([*singular_values(inner).values()])
        line = {"method": name, "density": density, "singular": float(values.mean())}
        train(model, seed, steps // 2, 1e-3)
        yield {**line, "error": error(model)}


def prospect(seed: int, steps: int) -> Iterator[Line]:
    made = {
        "snip": methods.snip(0.01),
        "prospr, no step": methods.prospr(0.01, inner=0),
        "prospr, 3 steps": methods.prospr(0.01, inner=3),
        "prospr, 3 steps, first order": methods.prospr(0.01, inner=3, first_order=True),
    }
    for name, method in made.items():
        model = drawn(lenet_5(), seed)
        masks = sc.prune(model, method, [batch_at(seed, 10_000 + k) for k in range(4)])
        with sc.hold(model, masks):
            train(model, seed, steps // 2, 1e-3)
        yield {"method": name, "error": error(model)}


def ticket(seed: int, steps: int) -> Iterator[Line]:
    """One search of 15 rounds; each round's training is that of the ticket of the round before."""
    model, found = lenet_300(seed), []

    def between(network: nn.Module) -> None:
        kept = sum(int((p != 0).sum()) for p in sc.prunable(network).values()) / 266_200
        masks = sc.Masks({name: p != 0 for name, p in sc.prunable(network).items()})
        optimizer, early = torch.optim.Adam(network.parameters(), lr=1.2e-3), float("nan")
        for step in range(steps):
            x, y = batch_at(seed, step)
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            if step + 1 == steps // 5:
                early = error(network)
        found.append(({"start": "ticket", "density": kept, "early": early, "error": error(network)}, masks))

    density = (0.8**15 * 265_200 + 0.9**15 * 1000) / 266_200
    masks = programs.imp(model, train=between, density=density, rounds=15, layerwise=True)
    with sc.hold(model, masks):
        between(model)
    yield from (line for line, _ in found)
    for line, kept in [found[k] for k in (3, 7, 10, 13, 15)]:
        other = lenet_300(seed + 1000)
        with sc.hold(other, kept):
            train(other, seed, steps)
        yield {"start": "new draw", "density": line["density"], "error": error(other)}


def criteria(seed: int, steps: int) -> Iterator[Line]:
    """One training, cut to 20 % by each criterion; and the survivors of the largest started in each way."""
    trained = lenet_300(seed)
    train(trained, seed, steps)
    final = trained.state_dict()

    def as_trained(network: nn.Module) -> None:
        network.load_state_dict(final)

    rules: dict[str, tuple[Any, Any]] = {name: (rule, tickets.rewound) for name, rule in tickets.CRITERIA.items()}
    for start in (tickets.reinitialised, tickets.reshuffled, tickets.signed_constant):
        rules[start.__name__] = (tickets.large_final, start)
    rules["same sign, no training"] = (tickets.same_sign(tickets.large_final), tickets.rewound)
    rules["same sign, constants, no training"] = (tickets.same_sign(tickets.large_final), tickets.signed_constant)
    for name, (rule, start) in rules.items():
        model = lenet_300(seed)
        g = torch.Generator().manual_seed(seed)
        masks = programs.deconstructed(
            model, train=as_trained, density=0.05, rounds=1, criterion=rule, start=start, generator=g
        )
        at_once = error(model)
        if "no training" not in name:
            with sc.hold(model, masks):
                train(model, seed, steps)
        yield {"rule": name, "density": 0.05, "untrained": at_once, "error": error(model)}


def search(seed: int, _: int) -> Iterator[Line]:
    """Tickets of 10 % by five rounds; `trained` counts images seen in the search, 1 being one dense training."""
    digits, steps, size = data.load("digits", seed=0, validation=0.0), 600, 50
    epoch = data.steps_in(len(digits.train), size, epochs=1)
    images: list[int] = []

    def part(model: nn.Module, stage: tickets.Stage) -> dict[str, Tensor]:
        named, optimizer = dict(model.named_parameters()), torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        for name, value in (stage.state or {}).items():
            optimizer.state[named[name]]["momentum_buffer"] = value.clone()
        among = torch.arange(len(digits.train)) if stage.among is None else stage.among
        some = data.Examples(digits.train.x[among], digits.train.y[among])
        for step in range(stage.start, stage.stop):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / stage.of)) / 2
            x, y = data.batch_at(some, size, seed=seed, step=step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        images.append((stage.stop - stage.start) * size)
        return {name: optimizer.state[p]["momentum_buffer"] for name, p in named.items() if p in optimizer.state}

    def whole(model: nn.Module) -> None:
        part(model, tickets.Stage(0, steps, steps))

    def judged(name: str, run: Callable[[nn.Module], sc.Masks | None]) -> Line:
        layers = [nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
        model = drawn(nn.Sequential(*layers), seed)
        images.clear()
        masks = run(model)
        seen = sum(images) / (steps * size)
        if masks is not None:
            sc.hold(model, masks)
        whole(model)
        wrong = (model(digits.test.x).argmax(1) != digits.test.y).float().mean()
        return {"method": name, "trained": seen, "error": 100 * float(wrong)}

    about: dict[str, Any] = {"steps": steps, "epoch": epoch, "density": 0.1}
    both = (digits.train.x, digits.train.y)
    yield judged("dense", lambda model: None)
    yield judged("imp", lambda model: programs.imp(model, train=whole, density=0.1, rounds=5))
    yield judged("prac", lambda model: programs.prac(model, train=part, examples=both, rounds=5, **about))
    yield judged("early_bird", lambda model: programs.early_bird(model, train=part, **about))


PARTS: dict[str, Callable[[int, int], Iterator[Line]]] = {
    "subset_sum": subset_sum, "gadget": gadget, "width": width, "residual": residual, "deep": deep,
    "prospect": prospect, "search": search, "criteria": criteria, "tickets": ticket,
}  # fmt: skip


# ------------------------------------------------------------------ the record
def load() -> list[Line]:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []


def save(lines: list[Line]) -> None:
    text = "[\n" + ",\n".join(f" {json.dumps(line, ensure_ascii=False)}" for line in lines) + "\n]\n"
    write_whole(RECORD, text.encode("utf-8"))


def measure(parts: list[str], seeds: int, steps: int) -> None:
    for seed, part in itertools.product(range(seeds), parts):
        done = load()
        asked = 0 if part in ("subset_sum", "gadget", "width", "search") else steps
        if any((line["part"], line["seed"], line["steps"]) == (part, seed, asked) for line in done):
            continue
        begun = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(PARTS[part](seed, steps))
        about = {"part": part, "seed": seed, "steps": asked}
        spent = {"seconds": round(time.process_time() - begun, 1), "cpu": processor()}
        save([*load(), *({**about, **line, **(spent if k == 0 else {})} for k, line in enumerate(found))])


def table(part: str) -> str:
    """Mean ± deviation over the seeds of every number, one row per setting."""
    lines = [line for line in load() if line["part"] == part]
    names = [n for n in ("n", "width", "method", "start", "rule", "density") if any(n in line for line in lines)]
    rows: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        key = tuple(f"{line[n]:.4f}" if n == "density" else line[n] for n in names if n in line)
        rows.setdefault(key, []).append(line)
    said = []
    for key, some in rows.items():
        numbers = [
            n
            for n in ("error", "trained", "early", "gap", "bound", "empty", "least", "singular", "untrained")
            if n in some[0]
        ]
        values = {n: [line[n] for line in some] for n in numbers}
        cells = [f"{n} {mean(v):.4g} ± {pstdev(v):.2g}" for n, v in values.items()]
        said.append(f"{', '.join(map(str, key))}: {'; '.join(cells)} ({len(some)} seeds)")
    return "\n".join([f"## {part}", *said])


def fits() -> str:
    """Straight lines: n over log2(1/ε), and log of the gap over log of the width."""
    said = []
    for part, x, y in (("subset_sum", lambda e: -math.log2(e["error"]), lambda e: e["n"]),
                       ("width", lambda e: math.log(e["width"]), lambda e: math.log(e["gap"]))):  # fmt: skip
        lines = [line for line in load() if line["part"] == part]
        if lines:
            xs, ys = (torch.tensor([f(line) for line in lines], dtype=torch.float64) for f in (x, y))
            slope = float(((xs - xs.mean()) * (ys - ys.mean())).sum() / (xs - xs.mean()).square().sum())
            fit = float(torch.corrcoef(torch.stack([xs, ys]))[0, 1] ** 2)
            said.append(f"{part}: slope {slope:.3f}, R² {fit:.4f}")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tables", action="store_true", help="measure nothing, print what is kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.tables:
        measure(args.parts, args.seeds, args.steps)
    print("\n\n".join([*(table(part) for part in args.parts), fits()]))


if __name__ == "__main__":
    main()
