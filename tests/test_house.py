"""The rules of the house for rooms, read from the source: imports run downwards and through surfaces."""

from __future__ import annotations

import importlib
import inspect
import types
from pathlib import Path

import pytest

from house import PACKAGE, ROOT, files, imports, modules, name_of, papers

# A room imports from floors below its own, and from itself: what stands on one floor does not know its neighbours.
# Names are what follows `secateur.`; a folder stands for everything inside it.
FLOORS: list[tuple[str, str]] = [
    ("what everything stands on; ways timed in turns", "_base _native turns"),
    ("values, and the one place where anything is chosen; codes", "masks selection coding"),
    ("evidence; zeros that stay; what goes together", "measures holding coupling"),
    (
        "what makes a method, and the method; importance from responses; curvature; what a model costs; signals",
        "axes propagation curvature costing signals",
    ),
    (
        "what stands on a weight, what it costs, what survivors do; what runs a method",
        "gates penalties repairs pruning tickets",
    ),
    (
        "published methods; whole units cut out; channels in another order; layers in another basis; training again",
        "methods shrinking arranging rotation retraining scanning allocating",
    ),
    ("methods that own a loop; archives of models; layers of another kind in place", "programs archive replacing"),
    ("the list of both, and the conformance suite", "_catalogue testing"),
    ("the library's own first user; where it meets others; what a person is told", "lab integrations reporting export"),
    ("the command line", "cli __main__"),
]
# The back half knows masks and how they are held, never the evidence, the methods or what runs them.
BACK_HALF = {"sparse"}
BACK_HALF_MAY_IMPORT = {"_base", "_native", "turns", "masks", "selection", "holding", *BACK_HALF}
# Private to the package, not to one room.
OF_THE_HOUSE = {"_base", "_native", "_catalogue"}


def _top(name: str) -> str:
    return name.split(".")[0]


def _floor(room: str) -> int | None:
    """The index of the floor a room is on; None for the back half, whose rule is a list of its own."""
    for index, (_, rooms) in enumerate(FLOORS):
        if room in rooms.split():
            return index
    assert room in BACK_HALF, f"src/secateur/{room} has no floor: give it one in tests/test_house.py"
    return None


def _may_import(own: str, target: str) -> bool:
    if own == target or {own, target} == {"__main__", "cli"}:
        return True
    floor, below = _floor(own), _floor(target)
    if floor is None:
        return target in BACK_HALF_MAY_IMPORT
    return floor >= _floor_of("lab") if below is None else below < floor


def _floor_of(room: str) -> int:
    return next(index for index, (_, rooms) in enumerate(FLOORS) if room in rooms.split())


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_imports_only_run_downwards(path: Path) -> None:
    own = name_of(path)
    if own == "":
        return  # secateur/__init__.py gathers the public names and may name every floor below the lab
    # The package itself (its version) is always allowed. Methods never import one another: their surface gathers them.
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports secateur.{name}"
        for name, line in imports(path)
        if name and (not _may_import(_top(own), _top(name)) or (own.startswith("methods.") and _top(name) == "methods"))
    ]
    assert not wrong, "imports run upwards:\n" + "\n".join(wrong)


def test_the_house_has_at_most_ten_floors() -> None:
    assert len(FLOORS) <= 10


def test_package_root_never_reaches_into_lab_or_cli() -> None:
    reached = {_top(name) for name, _ in imports(PACKAGE / "__init__.py")} & {"lab", "cli", "__main__"}
    assert not reached, f"`import secateur` must stay light, but it imports {sorted(reached)}"


def _room(name: str) -> str:
    """The room of a module: the folder it is in, or what it is the surface of."""
    return name if (PACKAGE / Path(*name.split("."))).is_dir() else name.rpartition(".")[0] or name


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """The first circle of a graph, or nothing."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        for target in () if name in done else sorted(graph.get(name, ())):
            if found := visit(target, (*trail, name)):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, ()))), [])


def test_a_circle_is_found() -> None:
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_files_make_no_circles() -> None:
    # A package's __init__ gathers its own modules, which may name the package: that is not a circle.
    graph = {
        own: {name for name, _ in imports(path) if name not in {own, ""} and not own.startswith(f"{name}.")}
        for path in files()
        if (own := name_of(path))
    }
    circle = _circle(graph)
    assert not circle, "circular import: " + " -> ".join(circle)


def test_rooms_make_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in files():
        own = _room(name_of(path))
        found = {_room(name) for name, _ in imports(path)} - {own, ""}
        if own:
            graph.setdefault(own, set()).update(found)
    circle = _circle(graph)
    assert not circle, "rooms in a circle: " + " -> ".join(circle)


@pytest.mark.parametrize("path", [*files(), *papers()], ids=lambda path: path.stem)
def test_private_files_are_imported_in_their_own_room_only(path: Path) -> None:
    here = name_of(path) if path.is_relative_to(PACKAGE) else "papers"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports secateur.{name}"
        for name, line in imports(path)
        if name.rpartition(".")[2].startswith("_")
        and _top(name) not in OF_THE_HOUSE
        and name.rpartition(".")[0] != _room(here)
    ]
    assert not wrong, "take it from the room's surface (its __init__), or let the surface offer it:\n" + "\n".join(
        wrong
    )


def test_no_name_is_a_module_and_a_value_at_once() -> None:
    # `from secateur.x import prune` must not mean one thing before, and another after `import secateur.x.prune`.
    public = sorted(name for name in modules() if not any(part.startswith("_") for part in name.split(".")))
    wrong = []
    for name in public:
        above, _, last = f"secateur.{name}".rpartition(".")
        value = getattr(importlib.import_module(above), last, None) if name else None
        if value is not None and not isinstance(value, types.ModuleType):
            wrong.append(f"{above}.{last}")
    assert not wrong, f"a module and something else at once: {wrong}"


def test_no_word_of_the_vocabulary_is_the_name_of_another_module() -> None:
    import secateur

    rooms = {name.rpartition(".")[2] for name in modules() if _top(name) not in {"lab", "cli", *BACK_HALF}}
    words = {name for name in secateur.__all__ if inspect.isroutine(getattr(secateur, name))}
    assert not words & rooms, f"functions and modules of one name: {sorted(words & rooms)}"


def test_the_front_door_is_small_and_holds() -> None:
    # About 25 nouns and verbs are what a user has to know; errors and rooms (submodules) explain themselves.
    import secateur

    missing = [name for name in secateur.__all__ if not hasattr(secateur, name)]
    assert not missing, f"secateur.__all__ promises {missing}"
    assert sorted(secateur.__all__) == sorted(set(secateur.__all__))
    values = {name: getattr(secateur, name) for name in secateur.__all__}
    errors = {name for name, value in values.items() if isinstance(value, type) and issubclass(value, Exception)}
    rooms = {name for name, value in values.items() if isinstance(value, types.ModuleType)}
    words = set(values) - errors - rooms
    assert len(words) <= 28, f"{len(words)} words at the front door: {sorted(words)}"
