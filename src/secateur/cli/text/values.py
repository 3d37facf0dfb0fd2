"""Words of the command line as values: densities, seeds, lists, options; exact decimals, helpful refusals."""

from __future__ import annotations

from argparse import ArgumentTypeError
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from secateur._base.errors import density_refusal


def density(text: str) -> float:
    """Read `0.05` or `5%` as the fraction kept, in (0, 1].

    >>> density("5%")
    0.05
    """
    value = float(_fraction(text))
    if not 0 < value <= 1:
        raise ArgumentTypeError(density_refusal(value, got=text))
    return value


def sparsity(text: str) -> float:
    """Read `95%` or `0.95`, the fraction pruned, and return the density, exactly.

    >>> sparsity("95%"), sparsity("0.999")
    (0.05, 0.001)
    """
    value = _fraction(text)
    if not 0 <= value < 1:
        hint = f" Did you mean {text}%?" if 1 <= value < 100 and not text.endswith("%") else ""
        raise ArgumentTypeError(f"the sparsity must be in [0, 1), got {text!r}.{hint}")
    return float(1 - value)


def densities(text: str) -> tuple[float, ...]:
    """Read `0.1,5%,0.01` as fractions kept.

    >>> densities("0.1, 5%")
    (0.1, 0.05)
    """
    return tuple(map(density, names(text)))


def sparsities(text: str) -> tuple[float, ...]:
    """Read `90%,0.95`, fractions pruned, as densities.

    >>> sparsities("90%,0.95")
    (0.1, 0.05)
    """
    return tuple(map(sparsity, names(text)))


def names(text: str) -> list[str]:
    """Read `snip,random, dense` as a list without repetitions.

    >>> names("snip, random,snip")
    ['snip', 'random']
    """
    found = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise ArgumentTypeError(f"expected names with commas between them, got {text!r}.")
    return found


def positive(text: str) -> int:
    """Read a whole number of at least 1; underscores and commas may group its digits.

    >>> positive("100_000")
    100000
    """
    value = natural(text)
    if value < 1:
        raise ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}.")
    return value


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    digits = text.replace("_", "").replace(",", "")
    if not (digits.isascii() and digits.isdigit()):
        raise ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}.")
    return int(digits)


def seconds(text: str) -> float:
    """Read a time span of more than 0 seconds.

    >>> seconds("0.5")
    0.5
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}.")
    return value


def block(text: str) -> tuple[int, int]:
    """Read `4x1` as blocks of 4 outputs and 1 input.

    >>> block("4x1")
    (4, 1)
    """
    words = text.lower().replace("×", "x").split("x")
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise ArgumentTypeError(f"expected OUTPUTSxINPUTS, as 4x1, got {text!r}.")
    return int(words[0]), int(words[1])


def pattern(text: str) -> tuple[int, int]:
    """Read `2:4` as 2 kept of every 4.

    >>> pattern("2:4")
    (2, 4)
    """
    words = text.split(":")
    if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise ArgumentTypeError(f"expected KEPT:OF, as 2:4, got {text!r}.")
    n, m = int(words[0]), int(words[1])
    if not 0 < n <= m:
        raise ArgumentTypeError(f"N of every M stay, with 0 < N ≤ M, got {text!r}.")
    return n, m


def option(text: str) -> tuple[str, bool | int | float | str]:
    """Read `name=value` as a method's option; true and false, numbers, and anything else as text.

    >>> option("rounds=5"), option("layerwise=true")
    (('rounds', 5), ('layerwise', True))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ArgumentTypeError(f"expected name=value, got {text!r}.")
    return name.strip(), _literal(value.strip())


def _literal(text: str) -> bool | int | float | str:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _fraction(text: str) -> Fraction:
    number = text.strip().removesuffix("%").strip()
    try:
        value = Fraction(Decimal(number))
    except (InvalidOperation, ValueError, OverflowError):
        raise ArgumentTypeError(f"expected a number such as 0.05 or 5%, got {text!r}.") from None
    return value / 100 if text.strip().endswith("%") else value
