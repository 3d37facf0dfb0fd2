"""The list of methods, generated from their code: documentation, command line and tests all read it from here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

from secateur import methods
from secateur._base.errors import SecateurError, nearest
from secateur.axes import Method


@dataclass(frozen=True)
class Entry:
    """One method as a table row.

    Attributes:
        name: as called, `methods.<name>`.
        summary: first line of its docstring.
        family: when in a network's life it belongs.
        needs: "nothing", "inputs" (only their shape) or "labels".
        cuts: the structure it removes.
        arxiv: the paper's arXiv identifier.
        factory: density → Method.
        tags: how it is run: "online" acts during training, "trained" scores a trained network, "program" owns a loop.
    """

    name: str
    summary: str
    family: str
    needs: str
    cuts: str
    arxiv: str
    factory: Callable[..., Method]
    tags: frozenset[str] = frozenset()


def catalogue() -> dict[str, Entry]:
    """Return every method of `secateur.methods` by name, in alphabetical order.

    >>> entry = catalogue()["snip"]
    >>> entry.needs, entry.cuts, entry.arxiv
    ('labels', 'weights', '1810.02340')
    """
    return {name: _entry(name, getattr(methods, name)) for name in sorted(methods.__all__)}


def find(name: str) -> Entry:
    """Return the entry called `name`, or raise with the nearest known name."""
    known = catalogue()
    if name not in known:
        raise SecateurError(f"Unknown method {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    return known[name]


def _entry(name: str, factory: Callable[..., Method]) -> Entry:
    text = inspect.getdoc(factory) or ""
    example = factory(0.5)
    return Entry(
        name=name,
        summary=text.split("\n", 1)[0],
        family=_first(r"^Family: (.+?)\.$", text),
        needs=example.needs,
        cuts=example.structure.name,
        arxiv=_first(r"arXiv (\d{4}\.\d{4,5})", _section(text)),
        factory=factory,
    )


def _section(text: str) -> str:
    """The part of a docstring from its source on: earlier arXiv numbers are asides."""
    return text[text.index("Source:") :] if "Source:" in text else text


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else ""
