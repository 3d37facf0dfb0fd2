"""Einstein sums: a letter is a dimension, the same in all operands."""

from __future__ import annotations

import string
from collections.abc import Sequence

from torch import Tensor

from secateur.coupling.labels import Row
from secateur.coupling.rules._op import Op
from secateur.coupling.rules._registry import rule


@rule("einsum")
def einsum(op: Op) -> list[Row]:
    """Unite by letters. A letter of one operand alone that the result lacks is summed over, and stays."""
    tensors = op.tensors()
    operands, result = _letters(op["equation"], [tensor.ndim for tensor in tensors])
    found: dict[str, Row] = {}
    places: dict[str, int] = {}
    for tensor, letters in sorted(zip(tensors, operands, strict=True), key=lambda pair: not op.book.is_known(pair[0])):
        for dim, letter in enumerate(letters):
            _unite(op, tensor, dim, letter, found, reads=letter not in result)
        for letter in set(letters):
            places[letter] = places.get(letter, 0) + 1
    for letter, count in places.items():
        if count == 1 and letter not in result:
            op.freeze(found.get(letter), "is summed over")
    return [found.get(letter) for letter in result]


def _unite(op: Op, tensor: Tensor, dim: int, letter: str, found: dict[str, Row], *, reads: bool) -> None:
    if tensor.shape[dim] == 1:
        return
    if letter in found:
        op.same(tensor, dim, found[letter], reads=reads)
    else:
        found[letter] = op.rows(tensor)[dim]
        op.book.role(tensor, dim, reads=reads)
        op.take(found[letter])


def _letters(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Split an equation; an ellipsis becomes letters of its own, aligned on the right.

    >>> _letters("...ij, jk", [3, 2])
    (['Zij', 'jk'], 'Zik')
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    spare = [letter for letter in reversed(string.ascii_letters) if letter not in left]
    operands, widest = [], 0
    for text, rank in zip(left.split(","), ranks, strict=True):
        hidden = rank - len(text.replace("...", ""))
        widest = max(widest, hidden if "..." in text else 0)
        operands.append(text.replace("...", "".join(spare[:hidden][::-1])))
    dots = "".join(spare[:widest][::-1])
    if arrow:
        return operands, right.replace("...", dots)
    joined = "".join(operands)
    return operands, dots + "".join(sorted(x for x in set(joined) if joined.count(x) == 1 and x not in dots))
