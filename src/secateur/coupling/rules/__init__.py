"""What each operation of torch does to labels: one short rule per operation, several files by kind.

A rule is a function of an `Op` that returns the labels of its result. It accounts for every labelled dimension of every
argument: passes it on, unites it, or freezes it. What a rule forgets is frozen by `apply`.
"""

from secateur.coupling.rules import (
    _attention,
    _contractions,
    _einsum,
    _indices,
    _norms,
    _parts,
    _pointwise,
    _recurrent,
    _reductions,
    _shapes,
    _space,
)
from secateur.coupling.rules._book import Book, Entry, Need, Place, Rms
from secateur.coupling.rules._op import Op, tensors_in
from secateur.coupling.rules._registry import RULES, Rule, apply, rule, rule_of

# Importing a kind of rules registers them.
_KINDS = (
    _attention,
    _contractions,
    _einsum,
    _indices,
    _norms,
    _parts,
    _pointwise,
    _recurrent,
    _reductions,
    _shapes,
    _space,
)

__all__ = ["RULES", "Book", "Entry", "Need", "Op", "Place", "Rms", "Rule", "apply", "rule", "rule_of", "tensors_in"]
