"""Figure 1: test error of the LeNets over sparsity, with other methods and the sanity checks beside SNIP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from papers.snip_2019.setting import LENET_5, LENET_5_RELU, LENET_300, TITLES, lenet

from secateur.lab.experiment import Sanity
from secateur.lab.paper import Artefact, Cell, Gathered, Record, canvas, change, cost, grid, markdown, save_figure

ABOUT = """
The paper's Figure 1 draws the error of both LeNets against the sparsity and calls the pruned LeNet-300-100 similar to
the dense network, "only with negligible loss" at 90 %, and the loss of LeNet-5-Caffe "nearly invisible". Here: the
literal recipe, for LeNet-5-Caffe as the authors' code has it, without ReLU behind its convolutions, without momentum
(with it the dense network diverges); the common protocol (the weights that were scored are trained); mean and standard
deviation of the error after the last step. Δ is what pruning costs against the dense network of the same recipe and
steps. Beyond the paper, other methods of pruning at initialisation and the sanity checks of Frankle et al.
(arXiv 2009.08576) run on the same terms: the same first weights, batches and recipe. Where the line leaves the picture
the network has collapsed.
"""

# Per cent of the weights that are cut. The paper's axis, and on until nothing is left to learn with.
SPARSITIES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8)
HIGH = (90, 95, 98, 99, 99.5)

COSTS = "Δ, what pruning by SNIP costs in points, with its standard error (in brackets below three seeds):"

MODELS = (LENET_300, LENET_5_RELU, LENET_5)

RANGE = 4  # How many times the lowest error the left picture shows: above that a network has collapsed.

# Columns beside SNIP: the method of the catalogue, and what of its choice is taken away.
OTHERS = {
    "magnitude": ("magnitude", Sanity.NONE),
    "random": ("random", Sanity.NONE),
    "random, ERK": ("erk", Sanity.NONE),
    "GraSP": ("grasp", Sanity.NONE),
    "SynFlow": ("synflow", Sanity.NONE),
    "FORCE": ("force", Sanity.NONE),
    "SNIP, shuffled": ("snip", Sanity.SHUFFLE),
    "SNIP, redrawn": ("snip", Sanity.REINIT),
    "SNIP, inverted": ("snip", Sanity.INVERT),
}

#: A method has one colour in all pictures, whichever of the others stand beside it.
COLOURS = {"SNIP": "black"} | {column: f"C{index}" for index, column in enumerate(OTHERS)}


def cells() -> Iterator[Cell]:
    """Yield SNIP at every sparsity, and the others where they differ."""
    for model in MODELS:
        for sparsity in SPARSITIES:
            row, density = f"{TITLES[model]}, {sparsity:g} %", round(1 - sparsity / 100, 6)
            twin = f"{TITLES[model]}, 0 % · SNIP" if sparsity else ""
            yield Cell(row, "SNIP", lenet(model, "snip" if sparsity else "dense", density), dense=twin)
            beside = OTHERS.items() if sparsity in HIGH and model != LENET_5_RELU else ()
            for column, (method, check) in beside:
                yield Cell(row, column, replace(lenet(model, method, density), sanity=check))


def layout(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out the errors, and what pruning by SNIP costs at each sparsity."""
    return f"{grid(cells, records)}\n\n{COSTS}\n\n{costs(cells, records)}"


def costs(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out what pruning costs: networks against sparsities."""
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        title, _, sparsity = cell.row.partition(", ")
        if cell.dense:
            found.setdefault(title, {})[sparsity] = cost(change(cell, records))
    sparsities = dict.fromkeys(sparsity for row in found.values() for sparsity in row)
    rows = [("", *sparsities), ("---", *("--:",) * len(sparsities))]
    return markdown(rows + [(title, *(row[sparsity] for sparsity in sparsities)) for title, row in found.items()])


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw error over sparsity, one picture per network: the paper's range, and the range where methods part."""
    pictures = []
    for model in MODELS:
        lines = _lines(gathered, model)
        if not lines:
            continue
        figure, (whole, high) = canvas(1, 2, width=10.0, height=3.6)
        own = lines.get("SNIP", [])
        _curve(whole, "SNIP", own, SPARSITIES)
        for column, points in lines.items():
            _curve(high, column, points, HIGH)
        whole.set_ylim(0, RANGE * min((record.mean or 0.0 for _, record in own), default=1.0))
        whole.tick_params(axis="x", labelsize="x-small", labelrotation=60)
        high.set_yscale("log", subs=[2, 5])
        high.yaxis.set_major_formatter("{x:g}")
        high.yaxis.set_minor_formatter("{x:g}")
        if high.lines:
            high.legend(fontsize="x-small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside it
        for axes in (whole, high):
            axes.set_xlabel("sparsity, %")
            axes.set_ylabel("test error, %")
        figure.suptitle(f"{TITLES[model]} on MNIST", fontsize="medium")
        name = f"figure1-{model}.png"
        save_figure(figure, folder / name)
        steps = " / ".join(dict.fromkeys(f"{record.steps:,}" for points in lines.values() for _, record in points))
        said = f"error over sparsity after {steps} steps; bars are one standard deviation over the seeds"
        pictures.append((name, f"{TITLES[model]}: {said}"))
    return pictures


Points = list[tuple[float, Record]]


def _lines(gathered: Gathered, model: str) -> dict[str, Points]:
    """Return the measured points of each column of one network."""
    found: dict[str, Points] = {}
    for cell in gathered.cells:
        record = gathered.records.get(cell.name)
        if cell.experiment.model == model and record is not None and record.mean is not None:
            sparsity = round(100 * (1 - cell.experiment.density), 4)
            found.setdefault(cell.column, []).append((sparsity, record))
    return found


def _curve(axes: Any, column: str, points: Points, axis: Sequence[float]) -> None:
    """Draw those points that lie on an axis whose marks stand at equal distances."""
    axes.set_xticks(range(len(axis)), [f"{sparsity:g}" for sparsity in axis])
    axes.set_xlim(-0.5, len(axis) - 0.5)
    shown = [(axis.index(sparsity), record) for sparsity, record in points if sparsity in axis]
    if not shown:
        return
    means = [record.mean for _, record in shown]
    bars = [record.std or 0.0 for _, record in shown]
    width, shade = (2.0, 1.0) if column == "SNIP" else (1.0, 0.8)
    look = {"linewidth": width, "alpha": shade, "color": COLOURS[column]}
    axes.errorbar([at for at, _ in shown], means, yerr=bars, marker="o", markersize=3, capsize=2, label=column, **look)


ARTEFACT = Artefact("figure1", "Figure 1: error over sparsity", ABOUT, tuple(cells()), layout, seeds=20, draw=draw)
