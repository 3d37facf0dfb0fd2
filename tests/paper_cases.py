"""What the tests of papers share: cells and records by hand, and a tiny paper on digits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.lab.experiment import Experiment, Ramp, Recipe
from secateur.lab.paper import Cell, Record

RECIPE = Recipe(20, Ramp(0.1, 20, warmup=2), batch=50)
BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, RECIPE)
DENSE = Experiment("lenet-300-100", "digits", "dense", 1.0, RECIPE)


def cell(row: str = "net", column: str = "snip", experiment: Experiment = BASE, **more: Any) -> Cell:
    return Cell(row, column, experiment, **more)


def record(*errors: float, experiment: Experiment = BASE, **more: Any) -> Record:
    """A record of runs with these errors, each of which took two seconds."""
    count = len(errors)
    plain = Record(
        experiment=experiment,
        errors=errors,
        best=tuple(error - 0.25 for error in errors),
        seconds=(2.0,) * count,
        seeds=tuple(range(count)),
        kept=2_510,
        engine="sparse",
        threads=1,
        machine="Abacus",
        data="Digits",
        command="secateur paper tiny table --record",
    )
    return replace(plain, **more)


def unsealed(text: str) -> str:
    """A JSON file as an earlier version wrote it, or whoever changed it on purpose: without its checksum."""
    found, count = re.subn(r',\n "secateur\.crc32": "[0-9a-f]{8}"', "", text)
    assert count == 1
    return found


#: A paper of one table, one figure and one cell that diverges, as the text of its package.
TINY = '''
"""A paper that is not one."""

from dataclasses import replace

from secateur.lab.experiment import Experiment
from secateur.lab.paper import Artefact, Cell, grid, lines
from secateur.lab.paper import canvas, save_figure
from secateur.lab.experiment import Constant, Ramp, Recipe

TITLE = "Tiny, 1999"
ABOUT = "A table and a figure on digits."

RECIPE = Recipe(20, Ramp(0.1, 20, 2), batch=50)
SNIP = Experiment("lenet-300-100", "digits", "snip", 0.05, RECIPE)
DENSE = Experiment("lenet-300-100", "digits", "dense", 1.0, RECIPE)

WILD = replace(SNIP, recipe=Recipe(20, Constant(1e30)))
TABLE = (
    Cell("LeNet", "SNIP", SNIP, paper=99.0, quick=3, quick_examples=60),
    Cell("LeNet", "dense", DENSE, paper=0.0, points=0.1, why="Twenty steps are too few.", quick=3, quick_examples=60),
    Cell("LeNet", "random", replace(SNIP, method="random"), quick=3),
)


def draw(gathered, folder):
    figure, (axes,) = canvas(1, 1, width=2, height=2)
    for cell in gathered.cells:
        for result in gathered.results[cell.name]:
            axes.plot([point["loss"] for point in result.facts["curve"]])
    save_figure(figure, folder / "figure.png")
    shown = sum(bool(gathered.results[cell.name]) for cell in gathered.cells)
    return [("figure.png", f"{shown} curves")]


ARTEFACTS = (
    Artefact("table", "Table 1", "Errors.", TABLE, lines, seeds=2),
    Artefact("figure", "Figure 1", "Curves.", TABLE[:2], grid, draw=draw),
    Artefact("wild", "Wild", "", (Cell("LeNet", "wild", WILD, 1.0),), lines),
)
'''


def clone(folder: Path, name: str = "tiny", text: str = TINY) -> Path:
    """Make a folder look like a clone of the repository with one paper in it; return the paper's folder."""
    package = folder / "papers" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text, encoding="utf-8")
    return package
