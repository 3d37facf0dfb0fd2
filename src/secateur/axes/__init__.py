"""What a method is made of (score, structure, scope, schedule, regrow, gate, penalty, repair), and how they join."""

from secateur.axes import gate, penalty, regrow, repair, schedule, scope, structure
from secateur.axes._method import Factory, Method, invert, method, speaking
from secateur.axes._moment import Bits, Moment, all_alive
from secateur.axes._quota import erk_densities, igq_densities, largest_remainder
from secateur.axes._score import Score, ScoreFunction, measured
from secateur.axes.gate import Gate, Relax, Stand
from secateur.axes.penalty import Penalty
from secateur.axes.regrow import Regrow
from secateur.axes.repair import Repair
from secateur.axes.schedule import Milestone, Schedule
from secateur.axes.scope import Scope
from secateur.axes.structure import Structure

__all__ = [
    "Bits",
    "Factory",
    "Gate",
    "Method",
    "Milestone",
    "Moment",
    "Penalty",
    "Regrow",
    "Relax",
    "Repair",
    "Schedule",
    "Scope",
    "Score",
    "ScoreFunction",
    "Stand",
    "Structure",
    "all_alive",
    "erk_densities",
    "gate",
    "igq_densities",
    "invert",
    "largest_remainder",
    "measured",
    "method",
    "penalty",
    "regrow",
    "repair",
    "schedule",
    "scope",
    "speaking",
    "structure",
]
