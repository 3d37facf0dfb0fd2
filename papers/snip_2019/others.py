"""Table 1, the rows of the other methods: networks trained first, pruned in their own way, and trained again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor

from papers.snip_2019.setting import ADAM_AFTER, GENTLE_AFTER, LENET_5, LENET_300, TITLES, TRAINED_5, TRAINED_300

from secateur.lab.experiment import Experiment, Option, Recipe
from secateur.lab.paper import Cell, Record, markdown, number, spread, verdict

COLUMN = "trained first, ours"

ABOUT = """
The other rows of the paper's table prune trained networks. Here each of them starts from the same dense network (20
epochs of all 60,000 images; none is held out, as for the *best* recipe above) and trains for 20 more by its own method;
LWC cuts twice, with a retraining between. The errors are those of the papers that the table quotes: all that is equal
here (network, data, lengths) is not equal there. An error agrees if it is at most half a point and two standard errors
above the paper's, at no more weights than the paper keeps. SNIP, in the same columns: not pretrained, 1
pruning, no hyper-parameters, objective not augmented, not bound to an architecture.
"""
WEIGHTS = {LENET_300: 266_200, LENET_5: 430_500}


@dataclass(frozen=True)
class Row:
    """One line of the paper's table, and how it is run here.

    Args:
        name: as the paper has it.
        method: ours.
        printed: sparsity and error in per cent, by network.
        columns: what the paper says of it: number of prunings, augmented objective, constraints on the architecture.
            All of these methods are for trained networks, and have hyper-parameters besides.
        options: of our method, by network.
        counted: our method takes a density; otherwise it decides itself how much stays.
        why: the cause of a miss.
        recipe: how it is trained after the dense training; None: as that was.
    """

    name: str
    method: str
    printed: Mapping[str, tuple[float, float]]
    columns: tuple[str, str, str]
    options: Mapping[str, Mapping[str, Option]]
    counted: bool = True
    why: str = ""
    recipe: Recipe | None = None


def _both(**options: Option) -> dict[str, dict[str, Option]]:
    return {LENET_300: options, LENET_5: options}


def _printed(a: float, b: float, c: float, d: float) -> dict[str, tuple[float, float]]:
    return {LENET_300: (a, b), LENET_5: (c, d)}


ROWS = (
    Row(
        "LWC",
        "iterative_lwc",
        _printed(91.7, 1.6, 91.7, 0.8),
        ("many", "no", "yes"),
        _both(trained=True, rounds=2),
    ),
    Row(
        "DNS",
        "dns",
        _printed(98.2, 2.0, 99.1, 0.9),
        ("many", "no", "yes"),
        _both(quality=4.0),
        counted=False,
        why="How much stays follows from c, one number for all layers here, of which 4 alone was tried at this length.",
        recipe=GENTLE_AFTER,
    ),
    Row("LC", "lc", _printed(99.0, 3.2, 99.0, 1.1), ("many", "yes", "no"), _both(begin=0, every=300)),
    Row(
        "SWS",
        "soft_weight_sharing",
        _printed(95.6, 1.9, 99.5, 1.0),
        ("soft", "yes", "no"),
        _both(examples=60_000),
        counted=False,
        recipe=ADAM_AFTER,
    ),
    Row(
        "SVD",
        "variational_dropout",
        _printed(98.5, 1.9, 99.6, 0.8),
        ("soft", "yes", "no"),
        _both(examples=60_000, rate=0.005),
        counted=False,
        recipe=ADAM_AFTER,
    ),
    Row("OBD", "obd", _printed(92.0, 2.0, 92.0, 2.7), ("many", "no", "no"), _both()),
    Row(
        "L-OBS",
        "l_obs",
        _printed(98.5, 2.0, 99.0, 2.1),
        ("many", "no", "yes"),
        _both(),
        why="It is cut and retrained once here, where the authors do both many times, with a ratio for each layer; and "
        "every layer keeps the same fraction, which leaves the last one of LeNet-300-100 15 weights.",
    ),
)


def cells() -> Iterator[Cell]:
    """Yield a cell for each row and network; an error at more weights than the paper keeps counts as a miss."""
    for row in ROWS:
        for model, (sparsity, error) in row.printed.items():
            yield Cell(
                f"{row.name}, {TITLES[model]}, {sparsity:g} %",
                COLUMN,
                experiment(row, model),
                error,
                points=0.5,
                why=row.why,
                most_kept=floor((1 - (sparsity - 0.05) / 100) * WEIGHTS[model]),  # printed to a tenth of a per cent
            )


def experiment(row: Row, model: str) -> Experiment:
    """Return the run of a row: the dense network is trained first, once for all rows, with nothing held out."""
    density = round(1 - row.printed[model][0] / 100, 4) if row.counted else 1.0
    first = TRAINED_300 if model == LENET_300 else TRAINED_5
    plain = Experiment(model, "mnist", row.method, density, row.recipe or first, validation=0.0, pretrain=first)
    return plain.with_options(row.options[model])


def layout(shown: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out the paper's columns, ours beside them; what has not been run says so."""
    heads = ("", "sparsity, %", "paper", "ours: sparsity, %", "ours: error, %", "seeds", "steps", "")
    says = ("pretrained", "prunings", "hyper-parameters", "augmented objective", "bound to architecture")
    table = [(*heads, *says), ("---", *("--:",) * 6, "---", *("---",) * len(says))]
    for cell in shown:
        row = next(row for row in ROWS if cell.row.startswith(f"{row.name}, "))
        sparsity = cell.row.rpartition(", ")[2].removesuffix(" %")
        prunings, augmented, bound = row.columns
        traits = ("yes", prunings, "yes", augmented, bound)
        first = cell.row.rpartition(", ")[0]
        table.append((first, sparsity, number(cell.paper), *_ours(cell, records.get(cell.name)), *traits))
    return markdown(table)


def _ours(cell: Cell, record: Record | None) -> tuple[str, ...]:
    said = str(verdict(cell, record))
    if record is None:
        return ("–", "–", "–", "–", said)
    kept = number(100 * (1 - record.kept / WEIGHTS[cell.experiment.model]), 1) if record.kept else "–"
    return (kept, spread(record), str(len(record.seeds)), f"{record.steps:,}", said)
