"""Methods that own a loop: functions that train and cut in turns, and end in Masks, one file each.

A program is given the training as a function: your own loop, from the weights as they are. What was cut before is
held at zero while it runs. Some train whole, `train(model)`; others a part at a time, `train(model, stage)` with a
`tickets.Stage`, and are returned what the optimizer remembers.
"""

from __future__ import annotations

from secateur.axes import speaking
from secateur.programs._deconstructed import deconstructed
from secateur.programs._early_bird import early_bird
from secateur.programs._imp import imp
from secateur.programs._late_rewinding import late_rewinding
from secateur.programs._prac import prac
from secateur.programs._renda import fine_tuning, learning_rate_rewinding, weight_rewinding
from secateur.programs._scratch import scratch_b, scratch_e

__all__ = [
    "deconstructed",
    "early_bird",
    "fine_tuning",
    "imp",
    "late_rewinding",
    "learning_rate_rewinding",
    "prac",
    "scratch_b",
    "scratch_e",
    "weight_rewinding",
]
from secateur.programs._iterative_lwc import iterative_lwc

__all__ = ["imp", "iterative_lwc"]

for _name in __all__:
    globals()[_name] = speaking(globals()[_name])
