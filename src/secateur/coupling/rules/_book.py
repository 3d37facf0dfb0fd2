"""What a trace writes down: labels, which tensor has which, and the sizes that the user's code holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from secateur.coupling.labels import Frozen, Ids, Labels, Row
from secateur.coupling.numbers import Expression, Number, Size, Uses

__all__ = ["Book", "Entry", "Need", "Place", "Rms"]


@dataclass(frozen=True)
class Place:
    """Where an operation was called: its name, the module that was running, and the user's line."""

    op: str
    module: str
    line: str


@dataclass(frozen=True, eq=False)
class Need:
    """A size in the user's code: after a cut the expression must be the number of labels that stay.

    Attributes:
        expression: of attributes and sizes.
        ids: the labels that it is the number of; None where it sizes something fixed.
        size: what it is now.
        place: where it was consumed.
    """

    expression: Expression
    ids: Row
    size: int
    place: Place


@dataclass(frozen=True)
class Rms:
    """A module that computes x · (mean x² + ε)^-½ · w, or · (1 + w).

    Attributes:
        module: its path.
        weight: the name of w in it.
        epsilon: the attribute that holds ε.
        plus_one: whether it multiplies by 1 + w.
    """

    module: str
    weight: str
    epsilon: str
    plus_one: bool = False


@dataclass(frozen=True, eq=False)
class Entry:
    """One dimension of a parameter or buffer, and the label of each of its indices.

    Attributes:
        names: of the tensor; a tied one has several.
        dim: which dimension.
        ids: one label per index.
        reads: whether the dimension is one that a contraction sums over (the inputs of a layer), else it makes what
            the layer gives out.
    """

    names: tuple[str, ...]
    dim: int
    ids: Ids
    reads: bool


class Book:
    """All that is known of a trace.

    Args:
        named: the tensors whose dimensions can be cut, each with its names.
        norms: the modules that are root mean square norms.
        inexact: what may be cut although it changes the function.
    """

    def __init__(
        self, named: Sequence[tuple[Tensor, tuple[str, ...]]], norms: Sequence[Rms] = (), inexact: Sequence[str] = ()
    ) -> None:
        self.inexact = frozenset(inexact)
        self.waived: list[tuple[str, Ids]] = []
        self.norms = {norm.module: norm for norm in norms}
        self.rescaled: list[tuple[Rms, Ids]] = []
        self.labels = Labels()
        self.needs: list[Need] = []
        self.uses: Uses = {}
        self.measured: list[Ids] = []
        self.heads: list[Ids] = []
        self.unknown: dict[str, str] = {}
        self._named = {id(tensor): names for tensor, names in named}
        self._kept = [tensor for tensor, _ in named]  # ids stay theirs
        self._known: dict[int, tuple[Tensor, list[Row]]] = {}
        self._same: dict[tuple[int, int], Ids] = {}
        self._roles: dict[tuple[int, int], bool] = {}

    def is_cuttable(self, tensor: Tensor) -> bool:
        """Whether it is a tensor of the model with numbers in it."""
        return id(tensor) in self._named and tensor.is_floating_point()

    def name_of(self, tensor: Tensor) -> str | None:
        """Return the first name of a tensor of the model; None for any other."""
        return self._named[id(tensor)][0] if id(tensor) in self._named else None

    def is_known(self, tensor: Tensor) -> bool:
        """Whether its labels are fixed already."""
        return id(tensor) in self._known

    def rows(self, tensor: Tensor) -> list[Row]:
        """Return the labels of each dimension; those of a parameter are made at the first look."""
        known = self._known.get(id(tensor))
        if known is None:
            cut = self.is_cuttable(tensor)
            rows = [self._first(tensor, d) if n > 1 and cut else None for d, n in enumerate(tensor.shape)]
            known = self._known[id(tensor)] = tensor, rows
        return known[1]

    def give(self, tensor: Tensor, rows: Sequence[Row]) -> None:
        """Write down the labels of a new tensor; what has one index has none."""
        self._known[id(tensor)] = tensor, [None if n == 1 else ids for n, ids in zip(tensor.shape, rows, strict=True)]

    def _first(self, tensor: Tensor, dim: int) -> Ids:
        told = self._same.get((id(tensor), dim))
        return self.labels.fresh(tensor.shape[dim]) if told is None else told

    def first_as(self, tensor: Tensor, dim: int, ids: Ids) -> bool:
        """Let a parameter that nobody has looked at share the labels `ids`; False if it was looked at."""
        if self.is_known(tensor) or not self.is_cuttable(tensor) or (id(tensor), dim) in self._same:
            return False
        self._same[id(tensor), dim] = ids
        return True

    def role(self, tensor: Tensor, dim: int, *, reads: bool) -> None:
        """Write down whether a contraction sums over a dimension; what makes something anywhere does not only read."""
        key = id(tensor), dim
        self._roles[key] = self._roles.get(key, True) and reads

    def entries(self) -> list[Entry]:
        """List the labelled dimensions of all tensors of the model."""
        return [
            Entry(names, dim, ids, self._roles.get((id(tensor), dim), False))
            for tensor, names in ((tensor, self._named[id(tensor)]) for tensor in self._kept)
            for dim, ids in enumerate(self.rows(tensor))
            if ids is not None
        ]

    def unused(self) -> Mapping[str, list[Row]]:
        """Return name and labels of what the forward never touched."""
        idle = [tensor for tensor in self._kept if not self.is_known(tensor)]
        return {self._named[id(tensor)][0]: self.rows(tensor) for tensor in idle}

    def freeze(self, ids: Row, why: str, place: Place) -> None:
        """Let labels stay, and say why."""
        if ids is not None and ids.size:
            self.labels.frozen.append(Frozen(ids, why, place.op, place.module, place.line))

    def lead(self, rows: Sequence[Row]) -> None:
        """Write down that these dimensions stand before the two of an attention's weights: they are heads."""
        self.heads += [ids for ids in rows if ids is not None]

    def measure(self, ids: Ids) -> Number:
        """Return the number of labels of a dimension, as the user's code reads it from a shape."""
        self.measured.append(ids)
        size = Size(len(self.measured) - 1, len(ids))
        return Number(size.value, size, self.uses)

    def tie_sizes(self) -> None:
        """Let dimensions that are sized by one number of the user's keep equal counts."""
        first: dict[Expression, Row] = {}
        for need in self.needs:
            from_shape = isinstance(need.expression, Size)
            other = self.measured[need.expression.index] if isinstance(need.expression, Size) else None
            if not from_shape:
                other = first.setdefault(need.expression, need.ids)
            if other is need.ids:
                continue
            if need.ids is not None and other is not None and len(need.ids) == len(other):
                self.labels.keep_equal([other, need.ids])
                continue
            for ids in (need.ids, other):
                self.freeze(ids, "its number also sizes something fixed", need.place)
