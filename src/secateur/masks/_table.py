"""Masks as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from secateur._base.text import shown


def table(layers: Sequence[tuple[str, tuple[int, ...], int, float]], total: str) -> str:
    """Say what is kept of each layer, a line each, and the total below.

    Args:
        layers: name, shape, how many weights stay, and the fraction of them that is.
        total: the last line.

    >>> print(table([("0.weight", (300, 64), 1920, 0.1), ("2.weight", (10, 300), 1500, 0.5)], "in all 3,420"))
    0.weight  300 × 64  1,920  10.0 %
    2.weight  10 × 300  1,500  50.0 %
    in all 3,420
    """
    rows = [(shown(n), " × ".join(map(str, shape)), f"{kept:,}", f"{share:.1%}") for n, shape, kept, share in layers]
    rows = [(name, shape, kept, share.replace("%", " %")) for name, shape, kept, share in rows]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{wide[0]}}  {shape:>{wide[1]}}  {kept:>{wide[2]}}  {share:>{wide[3]}}"
        for name, shape, kept, share in rows
    ]
    return "\n".join([*lines, total])
