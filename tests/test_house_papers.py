"""The rules of the house for papers/: users of the package, which it does not need."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ROOT / "papers"


def papers() -> list[Path]:
    return sorted(PAPERS.rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_papers_stand_on_the_library_and_on_nothing_else() -> None:
    # A paper is short: what two of them share belongs to secateur.lab.paper, and torch is there for tensors only.
    allowed = {"secateur", "papers", "torch", *sys.stdlib_module_names}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
        for path in papers()
        for node in ast.walk(tree(path))
        for name in _imported_modules(node)
        if name.split(".")[0] not in allowed
        or name.startswith("secateur.cli")
        or (name.split(".")[0] == "papers" and name.split(".")[1:2] not in ([], [path.relative_to(PAPERS).parts[0]]))
    ]
    assert not wrong, "\n".join(wrong)
    assert papers(), "there are no papers: has the folder moved?"


def _imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "."] if isinstance(node, ast.ImportFrom) else []


def test_no_module_of_the_package_needs_a_paper() -> None:
    # Papers are not installed with it.
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(tree(path))
        for name in _imported_modules(node)
        if name.split(".")[0] == "papers"
    ]
    assert not wrong, wrong
