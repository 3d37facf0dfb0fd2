"""One experiment as a value: what is pruned, how, on what, how trained; and what its names stand for."""

from __future__ import annotations

from secateur.lab.experiment._built import (
    check,
    dense,
    load_data,
    pretraining,
    scored_is_trained,
    skeleton,
    source,
    suited,
    trained_on,
    untrained,
)
from secateur.lab.experiment._engine import BF16, Engine, misfit
from secateur.lab.experiment._experiment import DENSE, PAPER_PROTOCOL, Experiment, Option, Sanity, member
from secateur.lab.experiment._method import (
    arguments_of,
    entry_of,
    method_of,
    options_of,
    program_of,
    tags_of,
    takes_density,
)
from secateur.lab.experiment._recipe import (
    RECIPES,
    Adam,
    Constant,
    Ramp,
    Recipe,
    Sgd,
    Stairs,
    recipe,
    shortened,
)

__all__ = [
    "BF16",
    "DENSE",
    "PAPER_PROTOCOL",
    "RECIPES",
    "Adam",
    "Constant",
    "Engine",
    "Experiment",
    "Option",
    "Ramp",
    "Recipe",
    "Sanity",
    "Sgd",
    "Stairs",
    "arguments_of",
    "check",
    "dense",
    "entry_of",
    "load_data",
    "member",
    "method_of",
    "misfit",
    "options_of",
    "pretraining",
    "program_of",
    "recipe",
    "scored_is_trained",
    "shortened",
    "skeleton",
    "source",
    "suited",
    "tags_of",
    "takes_density",
    "trained_on",
    "untrained",
]
