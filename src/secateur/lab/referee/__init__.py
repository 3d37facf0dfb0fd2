"""All methods on equal terms: the same settings, seeds and lengths, two controls for each, and one page about it."""

from __future__ import annotations

from secateur.lab.referee._claims import CLAIMS, Claim, Finding, judge, row_of
from secateur.lab.referee._deployed import Deployed, deployed
from secateur.lab.referee._page import write_page
from secateur.lab.referee._plan import CONTROLS, DENSE_TWIN, Plan, controls, plans, runs_of
from secateur.lab.referee._record import Line, keep_lines, key, line_of, read_lines
from secateur.lab.referee._setting import SETTINGS, Setting, setting
from secateur.lab.referee._statistics import Interval, Paired, interval, paired, student
from secateur.lab.referee._work import RunAll, fill

__all__ = [
    "CLAIMS",
    "CONTROLS",
    "DENSE_TWIN",
    "SETTINGS",
    "Claim",
    "Deployed",
    "Finding",
    "Interval",
    "Line",
    "Paired",
    "Plan",
    "RunAll",
    "Setting",
    "controls",
    "deployed",
    "fill",
    "interval",
    "judge",
    "keep_lines",
    "key",
    "line_of",
    "paired",
    "plans",
    "read_lines",
    "row_of",
    "runs_of",
    "setting",
    "student",
    "write_page",
]
