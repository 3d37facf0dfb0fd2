"""Table 1: LeNets on MNIST, by SNIP and by the methods that the paper puts beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from papers.snip_2019 import others
from papers.snip_2019.setting import LENET_5, LENET_300, LITERAL, TITLES, as_published, best, lenet, shifted

from secateur.lab.paper import Artefact, Cell, Record, lines

ABOUT = """
The paper's Table 1 reports SNIP's error on MNIST beside methods that prune after training. Each number is measured
under two protocols (*as published*: as in the authors' code, biases counted, the mask from one draw of the weights and
training from another; *same weights*: the scored weights are trained) and three recipes (*literal*: the paper's;
*best*: the best of a recorded search, see below, with no training image held out; *shifted*: the best of that search
where every training image is moved at random by up to one pixel each way, which the paper says of CIFAR-10 only, by
four). Dense networks are trained by the same recipes. The result is the error after the last step; the best epoch,
chosen on the test set as the authors' script does, stands beside it.
"""

TRIED = {
    LENET_300: "No setting of the search at the end of this page that leaves the images as they are reaches it, "
    "and its better ones cannot be told apart. Moving them closes the gap: see *shifted*.",
    LENET_5: "What the paper did otherwise is not known. Moving the images closes the gap: see *shifted*.",
}

# Network, density, the paper's error in per cent.
PRINTED = ((LENET_300, 0.05, 1.6), (LENET_300, 0.02, 2.4), (LENET_5, 0.02, 0.8), (LENET_5, 0.01, 1.1))
DENSE = ((LENET_300, 1.7), (LENET_5, 0.9))


def cells() -> Iterator[Cell]:
    """Yield the four numbers, each under both protocols and recipes, and the dense networks."""
    for model, density, error in PRINTED:
        row, literal = f"{TITLES[model]}, {100 * (1 - density):g} %", lenet(model, "snip", density, LITERAL)
        for label, run in (("literal", literal), ("best", best(literal)), ("shifted", shifted(literal))):
            yield Cell(row, f"as published, {label}", as_published(run), error, why=TRIED[model])
            yield Cell(row, f"same weights, {label}", run, error, why=TRIED[model])
    for model, error in DENSE:
        row, literal = f"{TITLES[model]}, dense", lenet(model, "dense", 1.0, LITERAL)
        yield Cell(row, "literal", literal, error)
        yield Cell(row, "best", best(literal), error)
        yield Cell(row, "shifted", shifted(literal), error)


def layout(shown: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """Lay out SNIP's numbers one by one, then the paper's table of the other methods."""
    own = [cell for cell in shown if cell.column != others.COLUMN]
    rest = [cell for cell in shown if cell.column == others.COLUMN]
    return "\n\n".join([lines(own, records), others.ABOUT.strip(), others.layout(rest, records)])


ARTEFACT = Artefact("table1", "Table 1: LeNets on MNIST", ABOUT, (*cells(), *others.cells()), layout, seeds=5)
