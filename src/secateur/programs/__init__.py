"""Methods that own a loop: functions that train and cut in turns, and end in Masks, one file each.

A program is given the training as a function, `train(model)`: your own loop, from the weights as they are. What was cut
before is held at zero while it runs. `search` is the loop of those that try many masks: it takes a proposer, one of
your own or an agent as that of `try_and_learn`.
"""

from __future__ import annotations

from secateur.axes import speaking
from secateur.programs._filter_agent import FilterAgent, policy_loss
from secateur.programs._gal import gal
from secateur.programs._imp import imp
from secateur.programs._rehearsal import Rehearsal
from secateur.programs._retrain import Retrained, retrain
from secateur.programs._search import Proposer, Trial, search
from secateur.programs._try_and_learn import try_and_learn

__all__ = [
    "FilterAgent",
    "Proposer",
    "Rehearsal",
    "Retrained",
    "Trial",
    "gal",
    "imp",
    "policy_loss",
    "retrain",
    "search",
    "try_and_learn",
]

for _name in __all__:
    if _name.islower():  # functions, not the values that they take
        globals()[_name] = speaking(globals()[_name])
