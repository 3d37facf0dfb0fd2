"""The list of methods, generated from their code: documentation, command line and tests all read it from here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from secateur import methods, programs
from secateur._base.errors import SecateurError, nearest
from secateur.axes import Method

#: What a factory wants and a table row does not know, filled in to make an example.
_EXAMPLE = {"density": 0.5, "until": 10_000, "end": 10_000, "steps": 10_000}


@dataclass(frozen=True)
class Entry:
    """One method as a table row.

    Attributes:
        name: as on the command line: the paper's acronym.
        call: as called in Python, `methods.<name>` or `programs.<name>`.
        summary: first line of its docstring.
        family: when in a network's life it belongs.
        needs: what it measures with: "nothing", "input shapes", "inputs", "labels"; of a program, "training".
        cuts: the structure it removes.
        arxiv: the paper's arXiv identifier.
        tags: what holds of it, of `TAGS`.
        factory: options → Method; of a program, (model, options) → Masks.
        aliases: what else it may be called on the command line, as a line "Alias: svd." of its docstring says.
    """

    name: str
    call: str
    summary: str
    family: str
    needs: str
    cuts: str
    arxiv: str
    tags: frozenset[str]
    factory: Callable[..., Any]
    aliases: tuple[str, ...] = ()


#: What may hold of a method, and what that means.
TAGS = {
    "counted": "takes a density and keeps exactly so many weights or units",
    "emerging": "its density is what comes out",
    "online": "acts while the network trains, through a Pruner",
    "trained": "scores a trained network",
    "structured": "cuts units larger than a weight",
    "program": "owns a loop: a function that is given the training, and ends in Masks",
    "complete": "a program that leaves the network trained",
}


def catalogue() -> dict[str, Entry]:
    """Return every method of `secateur.methods` and every program by name, in alphabetical order.

    >>> entry = catalogue()["snip"]
    >>> entry.needs, entry.cuts, entry.arxiv, sorted(entry.tags)
    ('labels', 'weights', '1810.02340', ['counted'])
    """
    rows = [_entry(f"methods.{name}", getattr(methods, name)) for name in methods.__all__]
    offered = {name: getattr(programs, name) for name in programs.__all__}  # a family is what makes one a method
    rows += [_program(f"programs.{name}", function) for name, function in offered.items() if _family(function)]
    return {row.name: row for row in sorted(rows, key=lambda row: row.name)}


def find(name: str) -> Entry:
    """Return the entry called `name`, or raise with the nearest known name."""
    known = catalogue()
    if name not in known:
        raise SecateurError(f"Unknown method {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    return known[name]


def called(name: str) -> str:
    """Return the name of the method whose alias `name` is; any other word as it is.

    >>> called("svd"), called("snip")
    ('variational_dropout', 'snip')
    """
    return next((entry.name for entry in catalogue().values() if name in entry.aliases), name)


def example(factory: Callable[..., Method]) -> Method:
    """Make a method with its defaults, and a density of ½ and 10,000 steps of training where it asks for them."""
    asked = inspect.signature(factory).parameters.values()
    missing = [parameter.name for parameter in asked if parameter.default is parameter.empty]
    unknown = [name for name in missing if name not in _EXAMPLE]
    if unknown:
        raise SecateurError(
            f"{getattr(factory, '__name__', factory)} requires {', '.join(unknown)}: only {', '.join(_EXAMPLE)} may be "
            "required of a method; give everything else a default."
        )
    return factory(**{name: _EXAMPLE[name] for name in missing})


@cache  # a run asks for the catalogue a dozen times, and each factory says the same whenever it is asked
def _entry(call: str, factory: Callable[..., Method]) -> Entry:
    made = example(factory)
    family = _family(factory)
    tags = {"counted" if made.density is not None else "emerging"}
    tags |= {"online"} if made.online or family.startswith("during training") else set()
    tags |= {"trained"} if family.startswith("after training") else set()
    tags |= {"structured"} if not made.structure.name.startswith("weights") else set()
    return _row(call, factory, str(made.needs), made.structure.name, tags)


@cache
def _program(call: str, function: Callable[..., Any]) -> Entry:
    asked = inspect.signature(function).parameters
    counted, alone = "density" in asked, "train" not in asked  # it trains by itself, what has been trained before
    tags = {"program", "counted" if counted else "emerging"}
    tags |= {"trained"} if alone and _family(function).startswith("after training") else set()
    tags |= {"complete"} if _first(r"^Ends: (trained)\.$", inspect.getdoc(function) or "") else set()
    return _row(call, function, "training", "weights", tags)


def _row(call: str, factory: Callable[..., Any], needs: str, cuts: str, tags: set[str]) -> Entry:
    text = inspect.getdoc(factory) or ""
    return Entry(
        name=call.partition(".")[2].rstrip("_"),
        call=call,
        summary=text.split("\n", 1)[0],
        family=_family(factory),
        needs=needs,
        cuts=cuts,
        arxiv=_first(r"arXiv (\d{4}\.\d{4,5})", _section(text)),
        tags=frozenset(tags),
        factory=factory,
        aliases=tuple(re.findall(r"\w+", _first(r"^Alias: (.+?)\.$", text))),
    )


def _family(factory: Callable[..., Any]) -> str:
    return _first(r"^Family: (.+?)\.$", inspect.getdoc(factory) or "")


def _section(text: str) -> str:
    """The part of a docstring from its source on: earlier arXiv numbers are asides."""
    return text[text.index("Source:") :] if "Source:" in text else text


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else ""
