"""Published tables and figures over again: each cell an experiment, each number beside the paper's, each miss shown."""

from __future__ import annotations

from secateur.lab.paper._artefact import Artefact, Draw, Gathered, Layout, Paper, Summary, folders, load
from secateur.lab.paper._cell import Cell, Length, only, order
from secateur.lab.paper._clock import check_timed, time_cells
from secateur.lab.paper._cost import (
    Cost,
    Costs,
    cost_table,
    cost_totals,
    current_costs,
    keep_costs,
    read_costs,
    whole_costs,
    write_costs,
)
from secateur.lab.paper._drawing import canvas, draw_sensitivity, kept_inputs, save_figure, show_image
from secateur.lab.paper._file import read_records, write_records
from secateur.lab.paper._layout import cost, cross, grid, lines, markdown, number, plural, short, signed, spread
from secateur.lab.paper._page import misses, note_pictures, outcomes, write_page
from secateur.lab.paper._record import Record, Records, condense, current_records
from secateur.lab.paper._verdict import JUDGED_FROM, Change, Verdict, change, standard_error, verdict
from secateur.lab.paper._work import (
    at_hand,
    check_data,
    check_first,
    diverged,
    finished,
    illustrate,
    keep_records,
    outdone,
    run_cells,
)

__all__ = [
    "JUDGED_FROM",
    "Artefact",
    "Cell",
    "Change",
    "Cost",
    "Costs",
    "Draw",
    "Gathered",
    "Layout",
    "Length",
    "Paper",
    "Record",
    "Records",
    "Summary",
    "Verdict",
    "at_hand",
    "canvas",
    "change",
    "check_data",
    "check_first",
    "check_timed",
    "condense",
    "cost",
    "cost_table",
    "cost_totals",
    "cross",
    "current_costs",
    "current_records",
    "diverged",
    "draw_sensitivity",
    "finished",
    "folders",
    "grid",
    "illustrate",
    "keep_costs",
    "keep_records",
    "kept_inputs",
    "lines",
    "load",
    "markdown",
    "misses",
    "note_pictures",
    "number",
    "only",
    "order",
    "outcomes",
    "outdone",
    "plural",
    "read_costs",
    "read_records",
    "run_cells",
    "save_figure",
    "short",
    "show_image",
    "signed",
    "spread",
    "standard_error",
    "time_cells",
    "verdict",
    "whole_costs",
    "write_costs",
    "write_page",
    "write_records",
]
