"""Table 2: recurrent networks on sequential MNIST, convolutional and residual ones on CIFAR-10."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from papers.snip_2019.setting import CIFAR, LITERAL, cifar_on_disk

from secateur.lab.experiment import Experiment
from secateur.lab.paper import Artefact, Cell, Record, change, cost, markdown, number, signed, spread

ABOUT = """
The paper's Table 2 puts sparse networks beside their dense twins. The recurrent ones read MNIST row by row. Both
columns use the literal recipe and the common protocol (the scored weights are trained). The last column is what
pruning costs: our sparse error minus our dense error with its standard error, in brackets below three seeds, beside the
same difference in the paper. Where CIFAR-10 is at hand only as a JPEG copy, as the line under the table then says,
errors are not comparable with published ones and count as not measured; the difference between sparse and dense on the
same data is the result.
"""

# Model, title, density, the paper's errors in per cent: dense, sparse.
MNIST = (
    ("lstm-s", "LSTM-s", 0.05, 1.88, 1.57),
    ("lstm-b", "LSTM-b", 0.05, 1.15, 1.35),
    ("gru-s", "GRU-s", 0.05, 1.87, 2.41),
    ("gru-b", "GRU-b", 0.05, 1.71, 1.52),
)
CIFAR_10 = (
    ("alexnet-s", "AlexNet-s", 0.10, 14.12, 14.99),
    ("alexnet-b", "AlexNet-b", 0.10, 13.92, 14.50),
    ("vgg-c", "VGG-C", 0.05, 6.82, 7.27),
    ("vgg-d", "VGG-D", 0.05, 6.76, 7.09),
    ("vgg-like", "VGG-like", 0.03, 8.26, 8.00),
    ("wrn-16-8", "WRN-16-8", 0.05, 6.21, 6.63),
    ("wrn-16-10", "WRN-16-10", 0.05, 5.91, 6.43),
    ("wrn-22-8", "WRN-22-8", 0.05, 6.14, 5.85),
)


def cells() -> Iterator[Cell]:
    """Yield a dense and a sparse cell per network. Errors on JPEG copies are compared with none of the paper's."""
    sets = (("mnist", LITERAL, MNIST, 540, 0), (cifar_on_disk(), CIFAR, CIFAR_10, 8, 512))
    for source, training, networks, steps, examples in sets:
        comparable = source != "cifar-10-jpeg75"
        for model, title, density, dense, sparse in networks:
            row = f"{title}, {100 * (1 - density):g} %"
            for column, method, kept, error in (("dense", "dense", 1.0, dense), ("sparse", "snip", density, sparse)):
                run = Experiment(model, source, method, kept, training)
                twin = "" if column == "dense" else f"{row} · dense"
                yield Cell(
                    row,
                    column,
                    run,
                    error,
                    comparable=comparable,
                    dense=twin,
                    paper_change=round(sparse - dense, 2) if twin else None,
                    quick=steps,
                    quick_examples=examples,
                )


def layout(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out one line per network: dense, sparse and their difference, the paper's and ours."""
    heads = ("", "paper: dense → sparse", "Δ", "ours: dense", "sparse", "Δ", "steps", "seeds")
    rows = [heads, ("---", *("--:",) * (len(heads) - 1))]
    known = {cell.name: cell for cell in cells}
    for cell in cells:
        if cell.dense:
            twin = known[cell.dense]
            paper = f"{number(twin.paper)} → {number(cell.paper)}", signed(cell.paper_change)
            rows.append((cell.row, *paper, *_ours(cell, records)))
    return markdown(rows)


def _ours(cell: Cell, records: Mapping[str, Record]) -> tuple[str, ...]:
    pair = records.get(cell.dense), records.get(cell.name)
    both = [record for record in pair if record is not None]
    errors = [spread(record) if record else number(None) for record in pair]
    steps = " / ".join(dict.fromkeys(f"{record.steps:,}" for record in both)) or number(None)
    seeds = " / ".join(dict.fromkeys(str(len(record.seeds)) for record in both)) or number(None)
    return (*errors, cost(change(cell, records)), steps, seeds)


ARTEFACT = Artefact("table2", "Table 2: recurrent, convolutional, residual", ABOUT, tuple(cells()), layout)
