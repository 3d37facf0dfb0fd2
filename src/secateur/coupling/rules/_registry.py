"""Which rule goes with which operation, and how one is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op

__all__ = ["POINTWISE", "RULES", "Rule", "apply", "rule", "rule_of"]

#: The labels of the result: a row per dimension, or such a list for each of several tensors.
Found = list[Any]
Rule = Callable[[Op], Found]

#: Operation → rule.
RULES: dict[str, Rule] = {}
#: The name under which the rule of all pointwise operations stands.
POINTWISE = "pointwise"


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these operations, given in one string with spaces."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return add


def rule_of(function: Any, name: str) -> str | None:
    """Return the name under which the operation's rule stands, or None: `add_` has that of `add`."""
    for known in (name, name.removesuffix("_")):
        if known in RULES:
            return known
    return POINTWISE if torch.Tag.pointwise in function.tags else None


def apply(op: Op, rule: str) -> list[list[Row]]:
    """Return the labels of each tensor of the result; labels that the rule says nothing of are frozen."""
    found = RULES[rule](op)
    rows = [found] if isinstance(op.out, Tensor) else found
    passed = {id(ids) for each in rows for ids in each if ids is not None}
    for tensor in op.tensors():
        for dim, ids in enumerate(op.book.rows(tensor)):
            if ids is not None and id(ids) not in passed and not op.is_accounted(ids):
                op.freeze(ids, f"its rule says nothing of dimension {dim} of an argument")
    return rows
