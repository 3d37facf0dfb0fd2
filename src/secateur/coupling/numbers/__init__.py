"""Integers of the user's code that remember which attribute, or which dimension of a tensor, they came from."""

from secateur.coupling.numbers._holders import Holder, marked
from secateur.coupling.numbers._lines import user_line
from secateur.coupling.numbers._number import Attribute, Expression, Number, Size, Uses, leaves, value_of

__all__ = [
    "Attribute",
    "Expression",
    "Holder",
    "Number",
    "Size",
    "Uses",
    "leaves",
    "marked",
    "user_line",
    "value_of",
]
