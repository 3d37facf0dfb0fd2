"""Text from elsewhere, safe to show: names of files and tensors may hold what a terminal obeys."""

from __future__ import annotations


def shown(text: object, *, lines: bool = False) -> str:
    r"""Write out everything that is not printable: control characters, changes of direction, line ends.

    Args:
        text: a name, a path, or what holds them.
        lines: keep line ends, of a text in several lines.

    >>> shown("weight\x1b[2J")
    'weight\\x1b[2J'
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(c if c.isprintable() or (lines and c == "\n") else ascii(c)[1:-1] for c in whole)
