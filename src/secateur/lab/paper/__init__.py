"""Published tables and figures over again: each cell an experiment, each number beside the paper's, each miss shown."""

from __future__ import annotations

from secateur.lab.paper.artefact import Artefact, Draw, Gathered, Layout, Paper, folders, load
from secateur.lab.paper.cell import Cell, Length, only, order
from secateur.lab.paper.layout import grid, lines
from secateur.lab.paper.record import Record, Verdict, condense, verdict

__all__ = [
    "Artefact",
    "Cell",
    "Draw",
    "Gathered",
    "Layout",
    "Length",
    "Paper",
    "Record",
    "Verdict",
    "condense",
    "folders",
    "grid",
    "lines",
    "load",
    "only",
    "order",
    "verdict",
]
