"""Experiments that a command line asks for: built from its words, run under its eyes, reported."""

from __future__ import annotations

from secateur.cli.runs import asked, report, reproduced
from secateur.cli.runs._picture import draw_inputs
from secateur.cli.runs._plot import plot
from secateur.cli.runs._progress import bars, busy

__all__ = ["asked", "bars", "busy", "draw_inputs", "plot", "report", "reproduced"]
