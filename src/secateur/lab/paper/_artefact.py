"""A table or figure of a paper: its cells, how it is laid out, its pictures; and where papers are found."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from secateur._base.errors import SecateurError, nearest
from secateur.lab.paper._cell import Cell
from secateur.lab.paper._record import Record
from secateur.lab.running import Result


@dataclass(frozen=True)
class Gathered:
    """What is known of an artefact when its pictures are drawn.

    Args:
        cells: all its cells.
        records: what came out of them, by name.
        results: their finished runs of this length, by name.
        data_dir: where data sets are searched first.
    """

    cells: tuple[Cell, ...]
    records: Mapping[str, Record]
    results: Mapping[str, tuple[Result, ...]]
    data_dir: str | Path | None = None


#: Draws pictures into a folder and returns their names and captions, in order.
Draw = Callable[[Gathered, Path], Sequence[tuple[str, str]]]

#: Lays cells and records out as Markdown.
Layout = Callable[[Sequence[Cell], Mapping[str, Record]], str]


#: Says what all the records of a paper come to, as Markdown.
Summary = Callable[[Mapping[str, Mapping[str, Record]]], str]


@dataclass(frozen=True)
class Artefact:
    """One table or figure.

    Args:
        name: what the command line calls it, and the stem of its files.
        title: the heading of its section.
        about: what it shows, what agrees and what does not, as Markdown.
        cells: its numbers.
        layout: how they are laid out.
        seeds: how many the paper averages over.
        draw: its pictures.
    """

    name: str
    title: str
    about: str
    cells: tuple[Cell, ...]
    layout: Layout
    seeds: int = 1
    draw: Draw | None = None

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SecateurError(f"{self.name} has two cells named {twice!r}: each row and column must meet once.")


@dataclass(frozen=True)
class Paper:
    """A reproduced paper: its folder and its artefacts, in the order of the page.

    `summary` is what stands at the top of the page, made of the records of all artefacts, by their names.
    """

    name: str
    title: str
    about: str
    folder: Path
    artefacts: Mapping[str, Artefact]
    summary: Summary | None = None

    def expected(self, artefact: Artefact) -> Path:
        """Return the file that holds what the paper prints and what came out here."""
        return self.folder / f"{artefact.name}.expected.json"

    def costs(self, artefact: Artefact) -> Path:
        """Return the file that holds what a training step of each cell takes."""
        return self.folder / f"{artefact.name}.cost.json"

    def find(self, name: str) -> Artefact:
        """Return an artefact by name; a wrong name is an error that says the nearest."""
        if name not in self.artefacts:
            known = ", ".join(self.artefacts)
            raise SecateurError(
                f"`artefact` of {self.name} must be one of {known}, got {name!r}.{nearest(name, self.artefacts)}"
            )
        return self.artefacts[name]


def folders(start: Path) -> dict[str, Path]:
    """Return the papers by name: the packages in the nearest folder `papers` at or above `start`, or beside the source.

    They are no part of the installed package: a paper's tables belong to a clone of the repository.

    Raises:
        SecateurError: there is no such folder.
    """
    source = Path(__file__).resolve().parents[4]
    for place in (start.resolve(), *start.resolve().parents, source):
        found = sorted((place / "papers").glob("*/__init__.py"))
        if found:
            return {path.parent.name: path.parent for path in found}
    raise SecateurError(
        "`paper` needs the folder papers, which is in the repository and not in the installed package: "
        "clone it and call the command there."
    )


def load(name: str, start: Path) -> Paper:
    """Import a paper: `papers/<name>/__init__.py`, which has `TITLE`, `ABOUT` and `ARTEFACTS`, and may have `SUMMARY`.

    Raises:
        SecateurError: there is no such paper, with the nearest name, or no folder of papers at all; or its package
            lacks one of the three, or has two artefacts of one name.
    """
    known = folders(start)
    if name not in known:
        raise SecateurError(f"`paper` must be one of {', '.join(known)}, got {name!r}.{nearest(name, known)}")
    module = _imported(name, known[name])
    missing = [word for word in ("TITLE", "ABOUT", "ARTEFACTS") if not hasattr(module, word)]
    if missing:
        raise SecateurError(f"{known[name] / '__init__.py'} has no {', '.join(missing)}, and a paper needs it.")
    artefacts = {artefact.name: artefact for artefact in module.ARTEFACTS}
    if len(artefacts) != len(module.ARTEFACTS):
        raise SecateurError(f"ARTEFACTS of {name} has two of one name: {', '.join(a.name for a in module.ARTEFACTS)}.")
    return Paper(name, module.TITLE, module.ABOUT, known[name], artefacts, getattr(module, "SUMMARY", None))


def _imported(name: str, folder: Path) -> ModuleType:
    """Import `papers.<name>`, and no other package of that name."""
    root = str(folder.parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    module = importlib.import_module(f"papers.{name}")
    found = Path(module.__file__ or "").resolve().parent
    if found != folder.resolve():
        raise SecateurError(
            f"`paper` {name} is in {folder}, but another is in its way in {found}. Remove or rename one."
        )
    return module
