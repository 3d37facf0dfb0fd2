"""The coupling of a model, as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from secateur.coupling._tracer import Step
from secateur.coupling.labels import Frozen, Ids, Product, Row
from secateur.coupling.numbers import Uses
from secateur.coupling.rules import Book, Entry, Need, Rms

__all__ = ["Coupling", "Group", "coupled"]


@dataclass(frozen=True, eq=False)
class Group:
    """Units that one may choose among: the channels of a layer, the heads of an attention.

    Attributes:
        name: the tensor and dimension where it is first seen, or the axis of a product.
        units: their classes.
        kind: "heads" of an attention (with grouped queries, whole groups), "heads of groups" for the same place in all
            groups, "head width" for the places that all heads have alike, "stream" for what a root
            mean square norm averages over, else "units".
    """

    name: str
    units: Ids
    kind: str = "units"

    def __str__(self) -> str:
        return f"{self.name}: {len(self.units)} units"


@dataclass(frozen=True, eq=False)
class Coupling:
    """What goes together in a model, found by `trace`.

    Every index of a labelled dimension belongs to one class; all that is of one class stays or goes as one. Classes are
    numbers from 0; arrays of them are `int32`.

    Attributes:
        count: how many classes there are.
        entries: for each labelled dimension of a parameter or buffer, the class of each of its indices.
        frozen: classes that must stay, with the reason, operation, module and line of the user's code.
        products: dimensions that are products of others.
        equal: lists of classes of which as many must stay in each.
        pieces: parts that a dimension is split into, all of one size.
        needs: sizes in the user's code that must follow a cut.
        uses: integers of the user's code whose value went elsewhere than into a size, with the line.
        measured: the classes behind each size that was read from a shape.
        heads: classes that stand for heads: dimensions before the two of an attention's weights.
        rescaled: root mean square norms that are made right after a cut, each with the classes it averages over.
        scaled: weights that make queries and nothing else, by name, with the width that the scale 1/√width follows.
        waived: what may go although it changes the function: by which name it was allowed, and the classes.
        unknown: operations without a rule, each with where it was met first.
        steps: every operation of the forward.
        meta: whether the model ran on meta tensors; False where it looks at values.
    """

    count: int
    entries: tuple[Entry, ...]
    frozen: tuple[Frozen, ...]
    products: tuple[Product, ...]
    equal: tuple[tuple[Ids, ...], ...]
    pieces: tuple[Ids, ...]
    needs: tuple[Need, ...]
    uses: Uses
    measured: tuple[Ids, ...]
    heads: tuple[Ids, ...]
    rescaled: tuple[tuple[Rms, Ids], ...]
    waived: tuple[tuple[str, Ids], ...]
    unknown: Mapping[str, str]
    steps: tuple[Step, ...]
    scaled: tuple[tuple[tuple[str, ...], Ids], ...] = ()
    meta: bool = True

    def mark(self, arrays: Sequence[Ids]) -> np.ndarray:
        """Return one bool per class: whether it is in any of the arrays."""
        found = np.zeros(self.count, bool)
        for ids in arrays:
            found[ids] = True
        return found

    @cached_property
    def stays(self) -> np.ndarray:
        """Whether each class is frozen."""
        return self.mark([each.ids for each in self.frozen])

    @cached_property
    def touching(self) -> tuple[tuple[Product, Ids], ...]:
        """Each product with all of its classes, merged and of factors."""
        found = []
        for product in self.products:
            own = [ids for ids in product.factors if ids is not None]
            found.append((product, np.unique(np.concatenate([product.merged.ravel(), *own]))))
        return tuple(found)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The units that may be chosen freely, each in one group; what is a product follows its factors."""
        taken = self.stays | self.mark([product.merged.ravel() for product in self.products])
        found = []
        for name, ids in self._candidates():
            fresh = np.unique(ids[~taken[ids]])
            if len(fresh):
                taken[fresh] = True
                found.append(Group(name, fresh, self._kind(fresh)))
        return tuple(found)

    def _kind(self, units: Ids) -> str:
        """What units are, by the softmax that follows: its leading dimensions are heads, what lies beside is width."""
        heads = self.every_head
        if heads[units].any():
            later = [ids for p in self.products if heads[p.merged].all() for ids in p.factors[1:] if ids is not None]
            return "heads of groups" if self.mark(later)[units].any() else "heads"
        beside = [ids for product in self.products for ids in self._beside_heads(product, heads)]
        if self.mark(beside)[units].any():
            return "head width"
        return "stream" if self.mark([ids for _, ids in self.rescaled])[units].any() else "units"

    @cached_property
    def every_head(self) -> np.ndarray:
        """Whether each class is a head, or, with grouped queries, a group of heads or a place in each group."""
        heads, before = self.mark(self.heads), -1
        while before != (before := int(heads.sum())):
            for product in self.products:
                if heads[product.merged].all():
                    heads |= self.mark([ids for ids in product.factors if ids is not None])
        return heads

    @staticmethod
    def _beside_heads(product: Product, heads: np.ndarray) -> list[Ids]:
        factors = [ids for ids in product.factors if ids is not None]
        others = [ids for ids in factors if not heads[ids].any()]
        return others if len(others) < len(factors) else []

    def _candidates(self) -> list[tuple[str, Ids]]:
        """Names and classes, in the order in which they take their units.

        Parts that must stay equally long come first: each is a group, so that as many are chosen of each.
        """
        own = [(f"{entry.names[0]}[{entry.dim}]", entry.ids) for entry in self.entries]
        pieces = [(f"{self._first_of(own, ids)}, a part of {len(ids)}", ids) for ids in self.pieces]
        pieces += [(name, ids) for name, piece in pieces for ids in self._indices_within(piece)]
        own = [*pieces, *own]
        for product in self.products:
            name = self._first_of(own, product.merged.ravel())
            own += [
                (f"{name} as {' x '.join(map(str, product.merged.shape))}, axis {axis}", ids)
                for axis, ids in enumerate(product.factors)
                if ids is not None
            ]
        return own

    def _indices_within(self, piece: Ids) -> list[Ids]:
        """Of each factor of a product, the indices all of whose entries lie in a piece, where these are not all."""
        found = []
        for product, classes in self.touching:
            if not np.isin(piece[:1], classes).any():
                continue
            inside = np.isin(product.merged, piece)
            for _, ids, _, others in product.axes():
                whole = inside.all(axis=others)
                if whole.any() and not whole.all():
                    found.append(ids[whole])
        return found

    @staticmethod
    def _first_of(own: Sequence[tuple[str, Ids]], ids: Ids) -> str:
        """The first name whose dimension has any of these classes at its beginning."""
        wanted = set(ids.tolist())
        return next((name for name, classes in own if int(classes[0]) in wanted), "a part")

    def why(self, classes: Ids) -> tuple[str, ...]:
        """Return the reasons for which any of these classes are frozen."""
        marked = self.mark([classes])
        return tuple(dict.fromkeys(str(each) for each in self.frozen if marked[each.ids].any()))

    def __str__(self) -> str:
        units, stay = sum(len(group.units) for group in self.groups), int(self.stays.sum())
        lines = [f"{units:,} units in {len(self.groups)} groups; {stay:,} of {self.count:,} classes are frozen"]
        lines += [f"  no rule for {op}: {where}" for op, where in self.unknown.items()]
        return "\n".join(lines)


def coupled(
    book: Book, steps: Sequence[Step], scaled: Sequence[tuple[tuple[str, ...], Ids]] = (), *, meta: bool
) -> Coupling:
    """Turn what a trace wrote down into classes."""
    entries = book.entries()
    names, classes = np.unique(book.labels.roots(), return_inverse=True)
    translate = _Translator(classes.astype(np.int32))
    labels = book.labels
    return Coupling(
        count=len(names),
        entries=tuple(replace(entry, ids=translate(entry.ids)) for entry in entries),
        frozen=tuple(replace(each, ids=translate(each.ids)) for each in labels.frozen),
        products=tuple(Product(translate(p.merged), tuple(map(translate.row, p.factors))) for p in labels.products.all),
        equal=tuple(tuple(translate(part) for part in parts) for parts in labels.equal),
        pieces=tuple(translate(part) for part in labels.pieces),
        needs=tuple(replace(need, ids=translate.row(need.ids)) for need in book.needs),
        uses=book.uses,
        measured=tuple(translate(ids) for ids in book.measured),
        heads=tuple(translate(ids) for ids in book.heads),
        rescaled=tuple((norm, translate(ids)) for norm, ids in book.rescaled),
        waived=tuple((kind, translate(ids)) for kind, ids in book.waived),
        unknown=book.unknown,
        steps=tuple(translate.step(step) for step in steps),
        scaled=tuple((names, translate(ids)) for names, ids in scaled),
        meta=meta,
    )


class _Translator:
    """From labels to classes, each array once."""

    def __init__(self, classes: Ids) -> None:
        self._classes = classes
        self._known: dict[int, tuple[Ids, Ids]] = {}

    def __call__(self, ids: Ids) -> Ids:
        if id(ids) not in self._known:
            self._known[id(ids)] = ids, self._classes[ids]
        return self._known[id(ids)][1]

    def row(self, ids: Row) -> Row:
        return None if ids is None else self(ids)

    def step(self, step: Step) -> Step:
        outs, ins = (
            [(shape, [self.row(ids) for ids in rows]) for shape, rows in side] for side in (step.outs, step.ins)
        )
        return Step(step.place, outs, ins, self.row(step.before), step.begin, step.macs)
