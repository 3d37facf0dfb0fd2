"""Figure 4: does the pruned network fit random labels?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from papers.snip_2019.setting import LENET_5, lenet

from secateur.lab.experiment import Adam, Constant, Recipe
from secateur.lab.paper import Artefact, Cell, Gathered, canvas, lines, save_figure

ABOUT = """
LeNet-5-Caffe on MNIST with true labels and with labels permuted at random; the mask, at 99 % sparsity, is from true
labels in all cases. In the paper the dense network comes to fit random labels, with and without weight decay, and the
pruned one does not: it lacks the capacity to memorise. The curves are training losses; the column *ours* is the error
on the true test labels, which is chance (90 %) for whoever learned random ones. *Dense* and *pruned* train without
weight decay, *+ L2* with 5e-4 added to the gradient. The paper does not say how it trained here; ours is its Table 3's
Adam at 1e-3, for 50 epochs. Memorising takes many epochs: shortened runs do not show it. The curves' teeth are epochs,
in which no image comes twice.
"""

NO_DECAY = Recipe(steps=27_000, rate=Constant(1e-3), optimizer=Adam())
DECAY = replace(NO_DECAY, optimizer=Adam(weight_decay=5e-4))
CHANCE = "ln 10"

COLUMNS = {
    "dense, true labels": ("dense", 1.0, NO_DECAY, False),
    "dense, random labels": ("dense", 1.0, NO_DECAY, True),
    "dense + L2, random labels": ("dense", 1.0, DECAY, True),
    "pruned, true labels": ("snip", 0.01, NO_DECAY, False),
    "pruned, random labels": ("snip", 0.01, NO_DECAY, True),
}


def cells() -> Iterator[Cell]:
    """Yield a cell for each curve."""
    for column, (method, density, training, random) in COLUMNS.items():
        yield Cell("LeNet-5-Caffe", column, replace(lenet(LENET_5, method, density, training), random_labels=random))


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw the training loss of the first seed of each cell over the steps."""
    curves = {cell.column: gathered.results.get(cell.name, ()) for cell in gathered.cells}
    if not any(curves.values()):
        return []
    figure, (axes,) = canvas(1, 1, width=6.0, height=3.6)
    for column, results in curves.items():
        if results:
            curve = results[0].facts["curve"]
            axes.plot([point["step"] for point in curve], [point["loss"] for point in curve], label=column)
    axes.axhline(2.302585, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.legend(fontsize="x-small", frameon=False)
    save_figure(figure, folder / "figure4.png")
    return [("figure4.png", f"Training loss over the steps, seed 0; dotted: chance, {CHANCE}")]


ARTEFACT = Artefact("figure4", "Figure 4: random labels", ABOUT, tuple(cells()), lines, draw=draw)
