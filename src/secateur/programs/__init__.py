"""Methods that own a loop: functions that train and cut in turns, and end in Masks, one file each.

A program is given the training as a function: your own loop, from the weights as they are. What was cut before is
held at zero while it runs. Some train whole, `train(model)`; others a part at a time, `train(model, stage)` with a
`tickets.Stage`, and are returned what the optimizer remembers. `search` is the loop of those that try many masks: it
takes a proposer, one of your own or an agent as that of `try_and_learn`.
"""

from __future__ import annotations

from secateur.axes import speaking
from secateur.programs._deconstructed import deconstructed
from secateur.programs._early_bird import early_bird
from secateur.programs._gal import gal
from secateur.programs._imp import imp
from secateur.programs._iterative_lwc import iterative_lwc
from secateur.programs._late_rewinding import late_rewinding
from secateur.programs._prac import prac
from secateur.programs._renda import fine_tuning, learning_rate_rewinding, weight_rewinding
from secateur.programs._retrain import Retrained, retrain
from secateur.programs._scratch import scratch_b, scratch_e
from secateur.programs._try_and_learn import try_and_learn
from secateur.programs.deployed import Rehearsal
from secateur.programs.searching import FilterAgent, Proposer, Trial, policy_loss, search

__all__ = [
    "FilterAgent",
    "Proposer",
    "Rehearsal",
    "Retrained",
    "Trial",
    "deconstructed",
    "early_bird",
    "fine_tuning",
    "gal",
    "imp",
    "iterative_lwc",
    "late_rewinding",
    "learning_rate_rewinding",
    "policy_loss",
    "prac",
    "retrain",
    "scratch_b",
    "scratch_e",
    "search",
    "try_and_learn",
    "weight_rewinding",
]

for _name in __all__:
    if _name.islower():  # functions, not the values that they take
        globals()[_name] = speaking(globals()[_name])
