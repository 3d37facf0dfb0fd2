"""An int with an expression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secateur.coupling.numbers._lines import user_line

__all__ = ["Attribute", "Expression", "Number", "Size", "Uses", "leaves", "value_of"]


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a user's module, or of a plain object that the module holds.

    Attributes:
        path: of the module.
        inner: the module's attribute that holds the object; "" is the module itself.
        name: of the integer.
        value: what it is.
    """

    path: str
    inner: str
    name: str
    value: int

    def __str__(self) -> str:
        return ".".join(part for part in (self.path, self.inner, self.name) if part)


@dataclass(frozen=True)
class Size:
    """The size of a labelled dimension, as the user's code read it from a shape.

    Attributes:
        index: the number of the reading.
        value: what it was.
    """

    index: int
    value: int

    def __str__(self) -> str:
        return "a width read from a shape"


#: A leaf, a plain integer, or (operator, left, right).
Expression = Attribute | Size | int | tuple[str, Any, Any]
#: Leaves whose value went elsewhere than into a size, each with the line where it did.
Uses = dict[Attribute | Size, str]

_EXACT: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
}


class Number(int):
    """An int that computes as any other, and knows the expression that it is the value of.

    Sums, differences, products and whole quotients are again such; any other use of its value (`1 / math.sqrt(n)`) is
    noted in `uses`, since another width would change what the function computes there.
    """

    expression: Expression
    uses: Uses

    def __new__(cls, value: int, expression: Expression, uses: Uses) -> Number:
        """Make one of its value, its expression, and where uses of the value are noted."""
        self = int.__new__(cls, value)
        self.expression, self.uses = expression, uses
        return self

    def as_value(self) -> None:
        """Note that the value itself was used."""
        line = user_line()
        for leaf in leaves(self.expression):
            self.uses.setdefault(leaf, line)

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return int.__eq__(self, other)  # pyright: ignore[reportReturnType]

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int(self)


def _exact(sign: str) -> tuple[Callable[[Number, Any], Any], Callable[[Number, Any], Any]]:
    compute = _EXACT[sign]
    plain = getattr(int, f"__{sign}__")

    def forward(self: Number, other: Any) -> Any:
        if not isinstance(other, int):
            self.as_value()
            return NotImplemented if plain(int(self), other) is NotImplemented else plain(int(self), other)
        expression = getattr(other, "expression", int(other))
        return Number(compute(int(self), int(other)), (sign, self.expression, expression), self.uses)

    def backward(self: Number, other: Any) -> Any:
        if not isinstance(other, int):
            self.as_value()
            return NotImplemented
        return Number(compute(int(other), int(self)), (sign, int(other), self.expression), self.uses)

    return forward, backward


def _noted(method: str) -> Callable[..., Any]:
    plain = getattr(int, method)

    def use(self: Number, *others: Any) -> Any:
        self.as_value()
        return plain(int(self), *others)

    return use


for _sign in _EXACT:
    for _prefix, _method in zip(("__", "__r"), _exact(_sign), strict=True):
        setattr(Number, f"{_prefix}{_sign}__", _method)
# Comparisons and remainders are not noted: they decide which way the code goes, and running finds out another way.
for _name in ("truediv", "rtruediv", "pow", "rpow", "float"):
    setattr(Number, f"__{_name}__", _noted(f"__{_name}__"))


def leaves(expression: Expression) -> list[Attribute | Size]:
    """List the attributes and sizes in an expression."""
    if isinstance(expression, int):
        return []
    if isinstance(expression, Attribute | Size):
        return [expression]
    return leaves(expression[1]) + leaves(expression[2])


def value_of(expression: Expression, new: Mapping[Attribute | Size, int]) -> int:
    """Return the expression's value with `new` values for some of its leaves."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, Attribute | Size):
        return new.get(expression, expression.value)
    return _EXACT[expression[0]](value_of(expression[1], new), value_of(expression[2], new))
