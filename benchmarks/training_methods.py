"""Every method that acts while a network trains, beside SNIP and dense: error, spread, density and seconds on MNIST.

    python benchmarks/training_methods.py --model lenet-300-100 --densities 5% 2%
    python benchmarks/training_methods.py --model lenet-5-caffe --bf16 --densities 2% 1% --seeds 1
    python benchmarks/training_methods.py --model lenet-5-bn --bf16 --densities 1% --methods slimming,ista_bn --seeds 1

10 epochs for all, over 5 seeds unless said otherwise, each method with its defaults. Methods that are told a density
are run at each; the others once, and stand at the density that they end in. What has been measured is kept in
`training_methods.json` beside this file, one line per run, and is not measured again: a table that was cut off, on
whatever day or processor, goes on. `--only-show` prints what is there; remove lines to measure them anew. With `--bf16`
torch trains in bfloat16, SNIP in float32 on the sparse engine; such lines are kept apart.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from secateur._base.files import write_whole
from secateur._catalogue import Entry, catalogue
from secateur.lab.comparing import compare, deviation, grid
from secateur.lab.data import load
from secateur.lab.experiment import Experiment, recipe, shortened, takes_density
from secateur.sparse.timing import processor

RECORD = Path(__file__).with_suffix(".json")
EXAMPLES = 54_000
RECIPE = {"lenet-300-100": "short"}  # the others diverge at that rate when dense
Line = dict[str, Any]


def acting_in_training() -> list[Entry]:
    """The catalogue's methods that act while a network trains, in its order."""
    return [entry for entry in catalogue().values() if "online" in entry.tags]


def plans(options: argparse.Namespace, method: str, density: float) -> Iterator[tuple[Line, Experiment]]:
    plain = recipe(RECIPE.get(options.model, "gentle"))
    length = shortened(plain, options.epochs * EXAMPLES // plain.batch)
    bf16 = options.bf16 and method != "snip"
    base = Experiment(options.model, "mnist", method, density, length, bf16=bf16)
    for experiment in grid(base, [method], range(options.seeds)):
        asked = experiment.density if method != "dense" and takes_density(catalogue()[method].factory) else None
        line = {"model": options.model, "method": method, "asked": asked, "epochs": options.epochs}
        yield line | {"seed": experiment.seed} | ({"bf16": True} if bf16 else {}), experiment


def all_plans(options: argparse.Namespace, densities: Sequence[float]) -> Iterator[tuple[Line, Experiment]]:
    wanted = options.methods.split(",") if options.methods else None
    yield from plans(options, "dense", 1.0)
    for entry in [catalogue()["snip"], *acting_in_training()]:
        if wanted is None or entry.name in wanted:
            for density in densities if takes_density(entry.factory) else [1.0]:
                yield from plans(options, entry.name, density)


def measured(line: Line, experiment: Experiment, runs: str) -> Line:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compare([experiment], root=runs, threads=1)
    if found.failures:
        return line | {"failure": next(iter(found.failures.values())), "processor": processor()}
    facts = found.rows[0].results[0].facts
    seconds = facts["seconds"]["prune"] + facts["seconds"]["train"]
    took = {"error": facts["test_error"], "density": facts["density"], "seconds": round(seconds, 1)}
    return line | took | {"processor": processor()}


def key(line: Line) -> tuple[Any, ...]:
    names = ("model", "method", "asked", "epochs", "seed", "bf16")
    return tuple(line.get(name) for name in names)


def recorded() -> dict[tuple[Any, ...], Line]:
    lines = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []
    return {key(line): line for line in lines}


def keep(known: dict[tuple[Any, ...], Line]) -> None:
    lines = sorted(known.values(), key=lambda line: json.dumps(key(line)))
    write_whole(RECORD, ("[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n").encode())


def show(lines: Sequence[Line]) -> None:
    print("| method | asked | kept | error, % | seeds | seconds |\n|---|---|---|---|---|---|")
    for method, asked in dict.fromkeys((line["method"], line["asked"]) for line in lines):
        found = [line for line in lines if (line["method"], line["asked"]) == (method, asked)]
        good = [line for line in found if "error" in line]
        for line in found:
            if "failure" in line:
                print(f"| {method} | {asked or ''} | seed {line['seed']}: {line['failure']} | | | |")
        if not good:
            continue
        errors = [100 * line["error"] for line in good]
        spread = deviation(errors)
        error = f"{mean(errors):.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
        kept = f"{100 * mean(line['density'] for line in good):.2f} %"
        said = "" if method == "dense" else "emerges" if asked is None else f"{asked:.0%}"
        print(f"| {method} | {said} | {kept} | {error} | {len(good)} | {mean(line['seconds'] for line in good):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet-300-100")
    parser.add_argument("--densities", nargs="+", default=["5%", "2%"])
    parser.add_argument("--methods", default="", help="with commas between them; all that act in training, and snip")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--bf16", action="store_true", help="torch in bfloat16; SNIP stays on the sparse engine")
    parser.add_argument("--only-show", action="store_true")
    options = parser.parse_args()
    densities = [float(text.rstrip("%")) / (100 if text.endswith("%") else 1) for text in options.densities]
    if not options.only_show:
        load("mnist")  # what is missing is said now, and not kept as what a method did
    planned = sorted(all_plans(options, densities), key=lambda each: each[0]["seed"])
    for line, experiment in planned:
        if not options.only_show and key(line) not in recorded():
            found = measured(line, experiment, options.runs)
            keep(recorded() | {key(line): found})  # read anew: another process may be measuring another model
    known = recorded()
    lines = [known[key(line)] for line, _ in all_plans(options, densities) if key(line) in known]
    where = ", ".join(sorted({line["processor"] for line in lines}))
    precision = ", bfloat16" if options.bf16 else ""
    print(f"{options.model} on MNIST, {options.epochs} epochs{precision}, {where}\n")
    show(lines)


if __name__ == "__main__":
    main()
