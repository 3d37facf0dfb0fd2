"""Figure 6: how much of each layer can go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from papers.han_2015.setting import TITLES, TRAINED, dense

from secateur.lab.experiment import load_data, untrained
from secateur.lab.paper import Artefact, Cell, Gathered, draw_sensitivity, lines
from secateur.lab.repeat import read_tensors
from secateur.lab.running import WEIGHTS, Result, error
from secateur.scanning import Sensitivity, sensitivity

ABOUT = """
The paper's Figure 6 cuts one layer of AlexNet at a time, without retraining, and finds the first convolution the most
sensitive. Here the same on the two LeNets, by `scanning.sensitivity`, which `secateur sensitivity` runs on any network
of the lab; the error is that on the test set, of the first seed.
"""


def cells() -> Iterator[Cell]:
    """Yield the trained networks that are scanned."""
    for model, recipe in TRAINED:
        yield Cell(TITLES[model], "trained", dense(model, recipe))


def scanned(result: Result, data_dir: str | Path | None) -> Sensitivity:
    """Scan the network that a run ended in."""
    model = untrained(result.experiment)
    model.load_state_dict(read_tensors(result.directory / WEIGHTS)[0])
    test = load_data(result.experiment, data_dir=data_dir, device="cpu").test

    def wrong(network: torch.nn.Module) -> float:
        with torch.inference_mode():
            return error(network.eval(), test.x, test.y)

    return sensitivity(model, wrong)


def draw(gathered: Gathered, folder: Path) -> Sequence[tuple[str, str]]:
    """Draw the scan of each network whose run is there."""
    found = []
    for cell in gathered.cells:
        results = gathered.results.get(cell.name, ())
        if results:
            name = f"figure6-{cell.experiment.model}.png"
            draw_sensitivity(scanned(results[0], gathered.data_dir), folder / name, cell.row)
            found.append((name, f"{cell.row}: the error where one layer is cut and nothing retrained"))
    return found


ARTEFACT = Artefact("figure6", "Figure 6: sensitivity of the layers", ABOUT, tuple(cells()), lines, draw=draw)
