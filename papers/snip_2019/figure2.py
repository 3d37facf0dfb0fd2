"""Figure 2: which pixels keep their connections when LeNet-300-100 sees one class only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from papers.snip_2019.setting import LENET_300

import secateur as sc
from secateur._base.types import Tensor
from secateur.lab import data, models
from secateur.lab.data import Dataset
from secateur.lab.models import vs_x
from secateur.lab.paper import Artefact, Gathered, canvas, grid, kept_inputs, save_figure, show_image
from secateur.lab.repeat import generator

ABOUT = """
LeNet-300-100 is scored on 100 images of a single class, and pruned to sparsities from 10 % (top) to 90 % (bottom). A
panel is the first layer's mask summed over its 300 units, as an image: bright where connections survive. As in the
paper, the class appears as the sparsity grows. Nothing is trained, so this takes seconds.
"""

SPARSITIES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
EXAMPLES = 100
CLASSES = 10
SETS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def panels(dataset: Dataset, label: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield the picture of each sparsity for one class; the weights are the same for all."""
    some = (dataset.train.y == label).nonzero().flatten()[:EXAMPLES]
    batch = dataset.train.x[some], dataset.train.y[some]
    for sparsity in SPARSITIES:
        model = models.build(LENET_300, init=vs_x, generator=generator(seed, "weights"))
        masks = sc.prune(model, sc.methods.snip(density=round(1 - sparsity / 100, 6)), batches=[batch])
        yield kept_inputs(masks, dataset.shape)


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw one picture per data set: classes from left to right, sparsities from top to bottom."""
    pictures = []
    for name, title in SETS.items():
        dataset = data.load(name, data_dir=gathered.data_dir, seed=0)
        columns = [torch.stack(list(panels(dataset, label))) for label in range(CLASSES)]
        figure, axes = canvas(len(SPARSITIES), CLASSES, width=8.0, height=7.4)
        for place, panel in enumerate(axes):
            row, label = divmod(place, CLASSES)
            show_image(panel, columns[label][row], str(dataset.classes[label]) if row == 0 else "")
            if label == 0:
                panel.text(-4, 14, f"{SPARSITIES[row]} %", ha="right", va="center", fontsize="small")
        save_figure(figure, folder / f"figure2-{name}.png")
        pictures.append((f"figure2-{name}.png", f"{title}: connections kept per pixel, by class and sparsity"))
    return pictures


ARTEFACT = Artefact("figure2", "Figure 2: which connections are kept", ABOUT, (), grid, draw=draw)
