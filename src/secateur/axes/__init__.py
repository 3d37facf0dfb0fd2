"""The axes of a pruning method (score, structure, scope, schedule, regrow, repair) and the value that joins them."""

from secateur.axes import regrow, repair, schedule, scope, structure
from secateur.axes._method import Factory, Method, invert, method
from secateur.axes._quota import erk_densities, igq_densities, largest_remainder
from secateur.axes._score import Score, ScoreFunction, measured
from secateur.axes.schedule import Milestone, Schedule
from secateur.axes.scope import Scope
from secateur.axes.structure import Structure

__all__ = [
    "Factory",
    "Method",
    "Milestone",
    "Schedule",
    "Scope",
    "Score",
    "ScoreFunction",
    "Structure",
    "erk_densities",
    "igq_densities",
    "invert",
    "largest_remainder",
    "measured",
    "method",
    "regrow",
    "repair",
    "schedule",
    "scope",
    "structure",
]
