"""Units that may go: what each is worth, which may be chosen at all, and how many stay."""

from secateur.shrinking.units._limits import Limits, Select, of_weights, selected
from secateur.shrinking.units._scores import UnitScore, l1, unit_scores
from secateur.shrinking.units._wish import wish_of

__all__ = ["Limits", "Select", "UnitScore", "l1", "of_weights", "selected", "unit_scores", "wish_of"]
