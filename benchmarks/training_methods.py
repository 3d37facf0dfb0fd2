"""Every method that acts while a network trains, beside SNIP and dense: error, spread, density and seconds on MNIST.

    python benchmarks/training_methods.py --model lenet-300-100 --densities 5% 2%
    python benchmarks/training_methods.py --model lenet-5 --densities 2% 1% --jobs 2

10 epochs for all, over 5 seeds unless said otherwise, each method with its defaults. Methods that are told a density
are run at each; the others once, and stand at the density that they end in. Finished runs are read again from `--runs`,
so that a table that was cut off goes on. The seconds are those of training and pruning, on the processor named.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from statistics import mean

from secateur._catalogue import Entry, catalogue
from secateur.lab.comparing import Row, compare, deviation, grid
from secateur.lab.experiment import Experiment, recipe, shortened, takes_density
from secateur.lab.running import Result
from secateur.sparse.timing import processor

EXAMPLES = 54_000
RECIPE = {"lenet-300-100": "short"}  # the others diverge at that rate when dense


def acting_in_training() -> list[Entry]:
    """The catalogue's methods that act while a network trains, in its order."""
    return [entry for entry in catalogue().values() if "online" in entry.tags]


def planned(model: str, method: str, density: float, epochs: int, seeds: int) -> list[Experiment]:
    plain = recipe(RECIPE.get(model, "gentle"))
    steps = epochs * EXAMPLES // plain.batch
    return grid(Experiment(model, "mnist", method, density, shortened(plain, steps)), [method], range(seeds))


def all_planned(options: argparse.Namespace, densities: Sequence[float]) -> list[Experiment]:
    wanted = options.methods.split(",") if options.methods else None
    found = planned(options.model, "dense", 1.0, options.epochs, options.seeds)
    methods = [catalogue()["snip"], *acting_in_training()]
    for entry in methods:
        if wanted is not None and entry.name not in wanted:
            continue
        for density in densities if takes_density(entry.factory) else [1.0]:
            found += planned(options.model, entry.name, density, options.epochs, options.seeds)
    return found


def line(row: Row) -> str:
    errors = [100 * error for error in row.errors()]
    spread = deviation(errors)
    asked = "dense" if row.experiment.method == "dense" else f"{row.experiment.density:.0%}"
    if row.experiment.method != "dense" and not takes_density(catalogue()[row.experiment.method].factory):
        asked = "emerges"
    kept = f"{100 * row.mean_of(lambda result: float(result.facts['density'])):.2f} %"
    error = f"{mean(errors):.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
    seconds = row.mean_of(_seconds)
    return f"| {row.experiment.method} | {asked} | {kept} | {error} | {len(errors)} | {seconds:.0f} |"


def _seconds(result: Result) -> float:
    return float(result.facts["seconds"]["prune"]) + float(result.facts["seconds"]["train"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet-300-100")
    parser.add_argument("--densities", nargs="+", default=["5%", "2%"])
    parser.add_argument("--methods", default="", help="with commas between them; all that act in training, and snip")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    densities = [float(text.rstrip("%")) / (100 if text.endswith("%") else 1) for text in options.densities]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compare(all_planned(options, densities), root=options.runs, jobs=options.jobs, threads=1)
    print(f"{options.model} on MNIST, {options.epochs} epochs, {processor()}\n")
    print("| method | asked | kept | error, % | seeds | seconds |\n|---|---|---|---|---|---|")
    for row in found.rows:
        print(line(row))
    for experiment, why in found.failures.items():
        print(f"\n{experiment.method} at {experiment.density:g}, seed {experiment.seed}: {why}")


if __name__ == "__main__":
    main()
