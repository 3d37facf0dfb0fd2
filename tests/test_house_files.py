"""The rules of the house for files: short, silent, safe to load."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from house import PACKAGE, ROOT, files, name_of, papers, tree

MAX_LINES = 300
MAX_METHOD_LINES = 80
MAX_FILES = 15
# What lies in the root of the repository; a run or a note that slipped in is none of these.
_FOLDERS = {".ci", "benchmarks", "docs", "native", "papers", "src", "tests"}
_BUILT_BY = {".gitignore", "CMakeLists.txt", "Makefile", "constraints.txt", "pyproject.toml"}
AT_THE_ROOT = {*_FOLDERS, *_BUILT_BY, "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"}
# Files that may be longer, each with its reason.
LONG_FILES: dict[str, str] = {}


def test_library_never_imports_torchvision() -> None:
    # Its binary is tied to one build of torch; beside another, importing it raises.
    wrong = []
    for path in files():
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path.name}:{node.lineno}" for name in names if name.split(".")[0] == "torchvision"]
    assert not wrong, wrong


def test_library_is_silent() -> None:
    talking = {path for path in files() if name_of(path).split(".")[0] in {"cli", "__main__"}}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in [*files(), *papers()]
        if path not in talking
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, f"print() outside the command line: {wrong}"


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no git here to ask")
def test_nothing_slipped_into_the_repository() -> None:
    asked = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    tracked = subprocess.run(asked, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    strange = {name.split("/")[0] for name in tracked if name} - AT_THE_ROOT
    assert not strange, f"tracked at the root: {sorted(strange)}"
    runs = [name for name in tracked if name.endswith((".lock", "experiment.json", ".safetensors", ".pt"))]
    assert not runs, f"tracked, but looks like what a run writes: {runs}"


def test_no_unsafe_loading() -> None:
    # A mask or a checkpoint may come from a stranger: nothing here unpickles.
    wrong = []
    for path in files():
        for node in ast.walk(tree(path)):
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
    tracked = [*files(), *papers(), *sorted((ROOT / "tests").rglob("*.py"))]
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    unexpected = {name: count for name, count in long.items() if name not in LONG_FILES}
    assert not unexpected, f"over {MAX_LINES} lines (split by meaning, or give a reason in LONG_FILES): {unexpected}"
    stale = set(LONG_FILES) - set(long)
    assert not stale, f"LONG_FILES names files that are short enough by now: {sorted(stale)}"


def test_method_files_stay_shorter() -> None:
    # A method is a formula and its choices: what is longer hides a measure, a gate or a scope.
    long = {
        str(path.relative_to(ROOT)): count
        for room in ("methods", "programs")
        for path in sorted((PACKAGE / room).glob("*.py"))
        if path.name != "__init__.py"  # which grows by a line with every method
        and (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_METHOD_LINES
    }
    assert not long, f"over {MAX_METHOD_LINES} lines: {long}"


def test_folders_stay_small() -> None:
    full = {
        str(folder.relative_to(ROOT)): count
        for top in (PACKAGE, ROOT / "native")
        for folder in (top, *(path for path in sorted(top.rglob("*")) if path.is_dir()))
        if folder != PACKAGE / "methods"
        and (count := sum(path.suffix in {".py", ".cpp", ".h"} for path in folder.iterdir())) > MAX_FILES
    }
    assert not full, f"more than {MAX_FILES} files: {full}; a room that full wants rooms inside"


def test_functions_stay_short() -> None:
    limit = 40
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
        for path in [*files(), *papers()]
        for node in ast.walk(tree(path))
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
        for path in [*files(), *papers()]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.args.kwarg is not None
    ]
    assert not wrong, f"a mistyped option must be an error, not swallowed: {wrong}"


def _texts() -> Iterator[tuple[str, str]]:
    """Name and text of every text file of the checkout, what is built or installed into it left out."""
    kinds = {".py", ".md", ".toml", ".txt", ".cpp", ".h", ".json", ".cfg", ".yml", ".yaml", ".sh", ""}
    skipped = {".git", ".venv", "build", "dist", "_build", "_generated", "runs", ".demo", ".hypothesis"}
    for folder, inside, found in os.walk(ROOT):
        inside[:] = [name for name in inside if name not in skipped and "cache" not in name]
        # In a worktree `.git` is a file.
        for path in (Path(folder, name) for name in found if name not in skipped):
            if path.suffix in kinds:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8", errors="ignore")


def test_no_machine_paths_in_thetree() -> None:
    # A path or an address that exists on one machine only fails on every other.
    forbidden = ["/" + part for part in ("work/", "root/", "home/", "Users/")]
    wrong = [f"{name}: {word}" for name, text in _texts() for word in forbidden if word in text]
    assert not wrong, wrong
