"""Methods that own a loop: functions that train and cut in turns, and end in Masks, one file each.

A program is given the training as a function, `train(model)`: your own loop, from the weights as they are. What was cut
before is held at zero while it runs.
"""

from __future__ import annotations

from secateur.axes import speaking
from secateur.programs._imp import imp
from secateur.programs._iterative_lwc import iterative_lwc

__all__ = ["imp", "iterative_lwc"]

for _name in __all__:
    globals()[_name] = speaking(globals()[_name])
