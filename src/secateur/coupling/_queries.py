"""Which weights make queries and nothing else: what follows 1/√width is made right in them after a cut."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

from secateur.coupling.labels import Ids
from secateur.coupling.rules import Op

__all__ = ["Queries"]

_WORDS = "view _unsafe_view reshape transpose permute unflatten flatten contiguous clone alias squeeze unsqueeze"
_VIEWS = frozenset(_WORDS.split())


@dataclass(eq=False)
class Queries:
    """Follows what linear layers give out through views, to whoever reads it."""

    asked: list[tuple[Ids, tuple[str, ...], Op]] = field(default_factory=list)
    _made: dict[int, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict)
    _readers: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _reads: Counter[str] = field(default_factory=Counter)

    def follow(self, op: Op) -> None:
        """Write down one operation."""
        for tensor in op.tensors():
            if name := op.book.name_of(tensor):
                self._reads[name] += 1
            known = self._made.get(id(tensor))
            if known is not None and op.name in _VIEWS and len(op.outs()) == 1:
                self._made[id(op.outs()[0])] = op.outs()[0], known[1]
            elif known is not None:
                self._readers[known[1]] += 1
        if op.name == "linear":
            given = [tensor for tensor in (op["weight"], op["bias"]) if tensor is not None]
            names = tuple(name for name in map(op.book.name_of, given) if name is not None)
            if len(names) == len(given):
                self._made[id(op.out)] = op.out, names
        if op.name == "scaled_dot_product_attention" and op["scale"] is None:
            query = op.tensor("query")
            ids = op.rows("query")[-1]
            if ids is not None and "attention_scale" not in op.book.inexact:
                self.asked.append((ids, self._made.get(id(query), (query, ()))[1], op))

    def scaled(self) -> list[tuple[tuple[str, ...], Ids]]:
        """Return the weights of queries with the width that their scale follows; freeze the width of all others."""
        found = []
        for ids, names, op in self.asked:
            if names and self._readers[names] == 1 and all(self._reads[name] == 1 for name in names):
                found.append((names, ids))
            else:
                op.book.freeze(ids, "the scale 1/√width follows the width", op.place)
        return found
