"""The rules of the house, read from the source: imports run downwards, files are short, nothing prints."""

from __future__ import annotations

import ast
import os
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "secateur"
PAPERS = ROOT / "papers"
MAX_LINES = 300

# A module may import from its own floor and from those below. Names are what follows `secateur.`; a folder
# stands for everything inside it. Private helpers (`_name`) live on floor 0 unless they are named elsewhere.
FLOORS: list[tuple[str, str]] = [
    ("values and selection", "errors masks select prunable"),
    (
        "what competes, when, on what evidence",
        "structure scope quota schedule measure measures preserve gather score",
    ),
    ("the method and what runs it", "method regrow repair prune hold pruner transforms"),
    ("published methods", "methods"),
    ("the list of methods, and the conformance suite", "catalogue testing"),
    ("the library's own first user", "lab"),
    ("the command line", "cli __main__"),
]
# The back half knows masks (and how they are held), never methods nor anything above them.
BACK_HALF = {"sparse"}
BACK_HALF_MAY_IMPORT = {*FLOORS[0][1].split(), *FLOORS[1][1].split(), "hold", *BACK_HALF}
# Files that may be longer, each with its reason.
LONG_FILES: dict[str, str] = {}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path.relative_to(ROOT)))


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _papers() -> list[Path]:
    """The reproduced papers, which stand beside the package: users of it, under the same rules."""
    return sorted(PAPERS.rglob("*.py"))


def _name(path: Path) -> str:
    """`src/secateur/lab/data.py` -> `lab.data`; the package's own `__init__` -> ``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _modules() -> set[str]:
    return {_name(path) for path in _files()}


def _room(name: str) -> str:
    return name.split(".")[0]


def _floor(name: str) -> int | None:
    """The index of the floor a module lives on; None for the back half, whose rule is a list of its own."""
    room = _room(name)
    for index, (_, rooms) in enumerate(FLOORS):
        if room in rooms.split():
            return index
    if room.startswith("_"):
        return 0
    assert room in BACK_HALF, f"src/secateur/{room} has no floor: give it one in tests/test_house.py"
    return None


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """The package's modules that a file imports, at its top or inside functions, with line numbers."""
    known = _modules()
    package = ["secateur", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            targets = [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            targets = [(module, [alias.name for alias in node.names])]
        else:
            continue
        for module, names in targets:
            if module != "secateur" and not module.startswith("secateur."):
                continue
            inner = module.removeprefix("secateur").removeprefix(".")
            # `from secateur import select` names a module, `from secateur import __version__` does not.
            joined = [f"{inner}.{name}".removeprefix(".") for name in names]
            found = [name for name in joined if name in known or _room(name) == "_native"]
            rest = [name for name, full in zip(names, joined, strict=True) if full not in found]
            yield from ((name, node.lineno) for name in found)
            if rest or not names:
                yield (inner, node.lineno)


def _top_level_imports(path: Path) -> set[str]:
    """The package's modules that importing this file imports at once (not those inside functions)."""
    tree = _tree(path)
    inside = {
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return {name for name, line in _imports(path) if line not in inside}


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_imports_only_run_downwards(path: Path) -> None:
    own = _name(path)
    if own == "":
        return  # secateur/__init__.py gathers the public names and may name every floor below the lab
    wrong = []
    for name, line in _imports(path):
        if name == "" or _room(own) == _room(name) != "methods":
            # The package itself (its version) and the same room are always allowed.
            continue
        floor, target = _floor(own), _floor(name)
        if floor is None:
            allowed = _room(name) in BACK_HALF_MAY_IMPORT or _room(name).startswith("_")
        elif target is None:
            allowed = floor >= _floor_of("lab")
        else:
            allowed = target <= floor and not (own.startswith("methods.") and name.startswith("methods"))
        if not allowed:
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports secateur.{name}")
    assert not wrong, "imports run upwards:\n" + "\n".join(wrong)


def _floor_of(room: str) -> int:
    return next(index for index, (_, rooms) in enumerate(FLOORS) if room in rooms.split())


def test_package_root_never_reaches_into_lab_or_cli() -> None:
    reached = {_room(name) for name, _ in _imports(PACKAGE / "__init__.py")} & {"lab", "cli", "__main__"}
    assert not reached, f"`import secateur` must stay light, but it imports {sorted(reached)}"


def test_imports_make_no_circles() -> None:
    graph = {_name(path): _top_level_imports(path) - {_name(path), ""} for path in _files() if _name(path)}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "circular import: " + " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        # A package's __init__ gathers its own modules, which may name the package: that is not a circle.
        for target in sorted(graph.get(name, set())):
            if not name.startswith(f"{target}."):
                visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


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


def test_library_never_imports_torchvision() -> None:
    # Its binary is tied to one build of torch; beside another, importing it raises.
    wrong = []
    for path in _files():
        for node in ast.walk(_tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path.name}:{node.lineno}" for name in names if name.split(".")[0] == "torchvision"]
    assert not wrong, wrong


def test_library_is_silent() -> None:
    talking = {path for path in _files() if _room(_name(path)) in {"cli", "__main__"}}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in [*_files(), *_papers()]
        if path not in talking
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, f"print() outside the command line: {wrong}"


def test_no_unsafe_loading() -> None:
    # A mask or a checkpoint may come from a stranger: nothing here unpickles.
    wrong = []
    for path in _files():
        for node in ast.walk(_tree(path)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            module, _, function = called.rpartition(".")
            keywords = {word.arg: ast.unparse(word.value) for word in getattr(node, "keywords", [])}
            careless = called == "torch.load" and keywords.get("weights_only") != "True"
            if careless or (module in {"pickle", "marshal", "shelve", "joblib"} and "load" in function.lower()):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
            if isinstance(node, ast.ImportFrom) and node.module in {"pickle", "marshal", "shelve", "joblib"}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports from {node.module}")
    assert not wrong, f"unpickling runs whatever a stranger put there: {wrong}"


def test_files_stay_short() -> None:
    tracked = [*_files(), *_papers(), *sorted((ROOT / "tests").rglob("*.py"))]
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    unexpected = {name: count for name, count in long.items() if name not in LONG_FILES}
    assert not unexpected, f"over {MAX_LINES} lines (split by meaning, or give a reason in LONG_FILES): {unexpected}"
    stale = set(LONG_FILES) - set(long)
    assert not stale, f"LONG_FILES names files that are short enough by now: {sorted(stale)}"


def test_functions_stay_short() -> None:
    limit = 40
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
        for path in [*_files(), *_papers()]
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (length := _code_lines(node)) > limit
    ]
    assert not long, f"functions over {limit} lines without their docstring:\n" + "\n".join(long)


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, the docstring not counted."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def test_no_public_keyword_catch_alls() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}(**{node.args.kwarg.arg})"
        for path in [*_files(), *_papers()]
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.args.kwarg is not None
    ]
    assert not wrong, f"a mistyped option must be an error, not swallowed: {wrong}"


def _texts() -> Iterator[tuple[str, str]]:
    """Name and text of every text file of the checkout, what is built or installed into it left out."""
    kinds = {".py", ".md", ".toml", ".txt", ".cpp", ".h", ".json", ".cfg", ".yml", ".yaml", ".sh", ""}
    skipped = {".git", ".venv", "build", "dist", "_build", "_generated", "runs", ".demo", ".hypothesis"}
    for folder, inside, files in os.walk(ROOT):
        inside[:] = [name for name in inside if name not in skipped and "cache" not in name]
        for path in (Path(folder, name) for name in files):
            if path.suffix in kinds:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8", errors="ignore")


def test_no_machine_paths_in_the_tree() -> None:
    # A path or an address that exists on one machine only fails on every other.
    forbidden = ["/" + part for part in ("work/", "root/", "home/", "Users/")]
    wrong = [f"{name}: {word}" for name, text in _texts() for word in forbidden if word in text]
    assert not wrong, wrong
