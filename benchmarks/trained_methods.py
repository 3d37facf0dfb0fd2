"""Methods that prune a trained network, side by side: LeNets on MNIST, before and after a short retraining.

    python benchmarks/trained_methods.py --seeds 2
    python benchmarks/trained_methods.py --model lenet-5-caffe --bfloat16 --seeds 1 --retrain 1 --weights 0.05 \
        --units 0.5 --skip wood_fisher

Trains one network a seed (SGD with momentum, a rate that falls linearly), prunes a copy of it by each method at each
density with the same 256 training images, and measures the test error at once and after `--retrain` epochs of the
survivors. What has been measured is kept in `trained_methods.json` beside this file, one line per run, and is not
measured again. Densities are of weights (of all layers together, biases not counted), or of the units of the hidden
layers. `--bfloat16` trains under autocast (the record says so); what is pruned and measured is float32.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import curvature, methods
from secateur._base.files import write_whole
from secateur.axes import Method
from secateur.lab import data
from secateur.lab.models import build
from secateur.sparse.timing import processor

RECORD = Path(__file__).with_suffix(".json")
Line = dict[str, Any]

WEIGHTS: dict[str, Callable[[float], Method]] = {
    "random": methods.random,
    "magnitude": methods.magnitude,
    "snip": methods.snip,
    "taylor_weights": methods.taylor_weights,
    "obd": methods.obd,
    "obd, Gauss-Newton": lambda density: methods.obd(density, curvature=curvature.ggn_diag()),
    "obd, LeCun": lambda density: methods.obd(density, curvature=curvature.lecun_diag()),
    "obd, empirical Fisher": lambda density: methods.obd(density, curvature=curvature.empirical_fisher()),
    "wanda": methods.wanda,
    "l_obs": methods.l_obs,
    "sparsegpt": methods.sparsegpt,
    "mlprune": methods.mlprune,
    "mlprune, 8 rounds": lambda density: methods.mlprune(density, schedule=sc.schedule.exponential(density, rounds=8)),
    "wood_fisher": lambda density: methods.wood_fisher(density, most=256, damping=1e-4),
    "chita": lambda density: methods.chita(density, most=256, ridge=1e-3),
}
UNITS: dict[str, Callable[[float], Method]] = {
    "random": lambda density: methods.random(density, structure=sc.structure.filters(), scope=sc.scope.layerwise()),
    "l1_filters": methods.l1_filters,
    "taylor": methods.taylor,
    "taylor_weights, gates": lambda density: methods.taylor_weights(density, gates=True),
    "group_fisher": methods.group_fisher,
    "skeletonization": methods.skeletonization,
    "c_obs": methods.c_obs,
    "kron_obs": methods.kron_obs,
    "kron_obd": lambda density: methods.kron_obs(density, made_up=False),
    "nisp": methods.nisp,
    "thinet": methods.thinet,
    "channel_lasso": methods.channel_lasso,
    "osscar": methods.osscar,
    "reduce_and_reuse": methods.reduce_and_reuse,
}
#: Of each network the layers whose units are cut, and those that read them.
HIDDEN = {
    "lenet-300-100": (["fc1.weight", "fc2.weight"], ["fc2.weight", "fc3.weight"]),
    "lenet-5-caffe": (["conv1.weight", "conv2.weight", "fc1.weight"], ["conv2.weight", "fc1.weight", "fc2.weight"]),
}
#: The learning rate of the first training; a fifth of it for the survivors.
RATES = {"lenet-300-100": 0.1, "lenet-5-caffe": 0.005}
OF_INPUTS = ("thinet", "channel_lasso", "osscar", "reduce_and_reuse")


def fit(model: nn.Module, train: data.Examples, epochs: int, rate: float, seed: int, half: bool) -> None:
    batch = 100
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(train.y) // batch)
    for step, (x, y) in enumerate(data.batches(train, batch, seed=seed, stop=steps)):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(x)
        F.cross_entropy(out.float(), y).backward()
        optimizer.step()


@torch.no_grad()
def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) != y).double().mean())


def measured(kind: str, name: str, density: float, model: nn.Module, dataset: data.Dataset, options: Any) -> Line:
    pruned = copy.deepcopy(model)
    method = (WEIGHTS if kind == "weights" else UNITS)[name](density)
    x, y = next(iter(data.batches(dataset.train, 256, seed=9, stop=1)))
    hidden = HIDDEN[options.model][name in OF_INPUTS]
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = torch.Generator().manual_seed(0)
        masks = sc.prune(pruned, method, [(x, y)], only=hidden if kind == "units" else None, generator=drawn)
    took = time.perf_counter() - begun
    test = dataset.test.x, dataset.test.y
    before = error(pruned, *test)
    with sc.hold(pruned, masks):
        fit(pruned, dataset.train, options.retrain, RATES[options.model] / 5, 1, options.bfloat16)
    after = error(pruned, *test)
    return {"before": before, "after": after, "kept": round(masks.density, 5), "seconds": round(took, 1)}


def recorded() -> dict[tuple[Any, ...], Line]:
    lines = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []
    return {key(line): line for line in lines}


def key(line: Line) -> tuple[Any, ...]:
    named = tuple(line[name] for name in ("kind", "method", "density", "epochs", "retrain", "seed"))
    return (line.get("model", "lenet-300-100"), line.get("bfloat16", False), *named)


def keep(known: dict[tuple[Any, ...], Line]) -> None:
    lines = sorted(known.values(), key=lambda line: json.dumps(key(line)))
    write_whole(RECORD, ("[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n").encode())


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in %, over the seeds."""
    if not values:
        return ""
    return f"{100 * mean(values):.2f}" + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


def show(kind: str, densities: Sequence[float], lines: Sequence[Line]) -> None:
    print(f"\n| {kind} kept | " + " | ".join(f"{density:.0%}" for density in densities) + " | seconds |")
    print("|---|" + "--:|" * (len(densities) + 1))
    for name in dict.fromkeys(line["method"] for line in lines if line["kind"] == kind):
        own = [line for line in lines if (line["kind"], line["method"]) == (kind, name)]
        cells = []
        for density in densities:
            found = [line for line in own if line["density"] == density]
            cells.append(" / ".join(spread([line[when] for line in found]) for when in ("before", "after")))
        print(f"| `{name}` | " + " | ".join(cells) + f" | {mean(line['seconds'] for line in own):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(HIDDEN), default="lenet-300-100")
    parser.add_argument("--skip", nargs="*", default=[], help="methods left out, by name")
    parser.add_argument("--weights", nargs="*", type=float, default=[0.1, 0.05, 0.02])
    parser.add_argument("--units", nargs="*", type=float, default=[0.5, 0.25])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--retrain", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="train under autocast")
    parser.add_argument("--only-show", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [("weights", name, d) for name in WEIGHTS for d in options.weights]
    jobs += [("units", name, d) for name in UNITS for d in options.units]
    jobs = [job for job in jobs if job[1] not in options.skip]
    wanted, dense = [], []
    for seed in range(options.seeds):
        given = {"model": options.model, "epochs": options.epochs, "retrain": options.retrain, "seed": seed}
        given |= {"bfloat16": True} if options.bfloat16 else {}
        plan = [{"kind": kind, "method": name, "density": density} | given for kind, name, density in jobs]
        dense.append({"kind": "dense", "method": "dense", "density": 1.0} | given)
        wanted += plan
        if options.only_show or all(key(line) in recorded() for line in (*plan, dense[-1])):
            continue
        dataset = data.load("mnist", seed=0)
        model = build(options.model, generator=torch.Generator().manual_seed(seed))
        fit(model, dataset.train, options.epochs, RATES[options.model], seed, options.bfloat16)
        found = {"before": error(model, dataset.test.x, dataset.test.y), "processor": processor()}
        keep(recorded() | {key(dense[-1]): dense[-1] | found})
        for line in plan:
            if key(line) not in recorded():
                result = measured(line["kind"], line["method"], line["density"], model, dataset, options)
                keep(recorded() | {key(line): line | result})
                print(json.dumps(line | result), flush=True)
    known = recorded()
    lines = [known[key(line)] for line in wanted if key(line) in known]
    whole = [known[key(line)] for line in dense if key(line) in known]
    print(f"\n{options.model}, dense: {spread([line['before'] for line in whole])} % over {len(whole)} seeds")
    print(f"test error in %, before / after retraining; {whole[0]['processor']}")
    show("weights", options.weights, lines)
    show("units", options.units, lines)


if __name__ == "__main__":
    main()
