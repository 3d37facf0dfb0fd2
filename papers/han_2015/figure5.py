"""Figure 5: L1 or L2, retrained or not, at once or in rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from papers.han_2015.setting import AS_CUT, LENET_300, RETRAINED, TITLES, TRAINED_300, WITH_L1, pruned

from secateur.lab.paper import Artefact, Cell, Gathered, canvas, grid, save_figure

ABOUT = """
The paper's Figure 5 draws AlexNet's loss of accuracy against the share of parameters pruned away: right after the cut
L1 leaves the better network, after retraining L2 does, and rounds of cutting and retraining go furthest. Here the same
on LeNet-300-100, whose dense network is trained once with weight decay (L2, 5e-4) and once with an L1 penalty (2e-5,
with no decay). Retraining is 10 epochs at a tenth of the rate, in all cases with L2. It is as the paper says, by one
seed: right after the cut L1 is far ahead from 70 to 93 %, and retrained L2 is level with it or ahead, most of all at
97 %.
"""

DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.07, 0.05, 0.03)
IN_ROUNDS = (0.1, 0.05, 0.03)
TICKS = (1, 2, 5, 10, 20, 50)


def cells() -> Iterator[Cell]:
    """Yield a cell for each share that stays and each way to get there."""
    for density in DENSITIES:
        row = f"{TITLES[LENET_300]}, {100 * (1 - density):.3g} %"
        for label, first in (("L2", TRAINED_300), ("L1", WITH_L1)):
            cut = pruned(LENET_300, density, first=first, after=AS_CUT, rounds=1)
            again = pruned(LENET_300, density, first=first, after=RETRAINED, rounds=1)
            yield Cell(row, f"{label}, as cut", cut)
            yield Cell(row, f"{label}, retrained", again)
        if density in IN_ROUNDS:
            rounds = pruned(LENET_300, density, first=TRAINED_300, after=RETRAINED, rounds=3)
            yield Cell(row, "L2, three rounds", rounds)


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw the error over the share that was cut, a line for each way."""
    figure, (panel,) = canvas(1, 1, width=6.5, height=4.2)
    for column in dict.fromkeys(cell.column for cell in gathered.cells):
        own = [cell for cell in gathered.cells if cell.column == column and cell.name in gathered.records]
        points = [(100 * (1 - cell.experiment.density), gathered.records[cell.name].mean) for cell in own]
        found = [(share, error) for share, error in points if error is not None]
        if found:
            dashed = "--" if column.endswith("cut") else "-"
            panel.plot([share for share, _ in found], [error for _, error in found], dashed, marker=".", label=column)
    if not panel.lines:
        return []
    panel.set_yscale("log")
    panel.set_yticks(TICKS, labels=[str(tick) for tick in TICKS])
    panel.minorticks_off()
    panel.set_xlabel("weights cut, %")
    panel.set_ylabel("test error, %")
    panel.legend(fontsize="small")
    save_figure(figure, folder / "figure5.png")
    return [("figure5.png", "LeNet-300-100: L1 and L2, with and without retraining")]


ARTEFACT = Artefact("figure5", "Figure 5: L1 or L2, retrained or not", ABOUT, tuple(cells()), grid, draw=draw)
