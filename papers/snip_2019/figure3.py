"""Figure 3: how many examples SNIP has to see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from papers.snip_2019.setting import LENET_300, lenet

from secateur.lab import data
from secateur.lab.paper import Artefact, Cell, Gathered, canvas, kept_inputs, lines, save_figure, show_image
from secateur.lab.running import MASKS
from secateur.masks import Masks

ABOUT = """
LeNet-300-100 at 90 % sparsity, scored on one batch of 1, 10, 100, 1,000, 10,000 examples or the whole training set, and
trained by the literal recipe, whose own batch stays 100. With one example the mask draws that digit; with more it comes
close to the mean of all images. In the paper the error falls on the way; it prints a curve and no numbers. 100 examples
are what the recipe scores anyway: that point has all the seeds of Figure 1.
"""

SIZES = (1, 10, 100, 1_000, 10_000, 54_000)  # 54,000: all that is trained on
ROW = "LeNet-300-100, 90 %"


def column(size: int) -> str:
    """Say a number of scored examples."""
    return "all examples" if size == SIZES[-1] else f"{size:,} example{'s' if size > 1 else ''}"


def cells() -> Iterator[Cell]:
    """Yield a cell for each number of scored examples."""
    for size in SIZES:
        yield Cell(ROW, column(size), replace(lenet(LENET_300, "snip", 0.10), score_batch=size))


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw the masks of the first seed over the errors of all."""
    found = [(cell, gathered.results.get(cell.name, ()), gathered.records.get(cell.name)) for cell in gathered.cells]
    if not all(results and record for _, results, record in found):
        return []
    examples = data.load("mnist", data_dir=gathered.data_dir, seed=0, standardise=False)
    figure, axes = canvas(2, len(SIZES) + 1, width=9.0, height=3.4)
    for panel, (cell, results, _) in zip(axes, found, strict=False):
        masks = Masks.load(results[0].directory / MASKS)
        show_image(panel, kept_inputs(masks, examples.shape), cell.column)
    show_image(axes[len(SIZES)], examples.train.x.mean(dim=(0, 1)), "mean image")
    for panel in axes[len(SIZES) + 1 :]:
        panel.remove()
    curve = figure.add_subplot(2, 1, 2)
    means = [record.mean for _, _, record in found if record is not None]
    bars = [record.std or 0.0 for _, _, record in found if record is not None]
    curve.errorbar(range(len(SIZES)), means, yerr=bars, marker="o", capsize=3, color="black")
    curve.set_xticks(range(len(SIZES)), [f"{size:,}" for size in SIZES])
    curve.set_xlabel("examples scored")
    curve.set_ylabel("test error, %")
    save_figure(figure, folder / "figure3.png")
    return [("figure3.png", "First-layer masks (seed 0) and errors by the number of scored examples")]


ARTEFACT = Artefact("figure3", "Figure 3: the batch that is scored", ABOUT, tuple(cells()), lines, seeds=5, draw=draw)
