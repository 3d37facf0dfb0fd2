"""Methods that own a loop: functions that train and cut in turns, and end in Masks, one file each.

A program is given the training as a function, `train(model)`: your own loop, from the weights as they are. What was cut
before is held at zero while it runs.
"""

from __future__ import annotations

from secateur.axes import speaking
from secateur.programs._imp import imp

__all__ = ["imp"]

for _name in __all__:
    globals()[_name] = speaking(globals()[_name])
