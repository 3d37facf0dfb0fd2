"""What the rules of the house read: the files of the package, their trees and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "secateur"


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path.relative_to(ROOT)))


def files() -> list[Path]:
    """All files of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def papers() -> list[Path]:
    """The reproduced papers, which stand beside the package: users of it, under the same rules."""
    return sorted((ROOT / "papers").rglob("*.py"))


def name_of(path: Path) -> str:
    """`src/secateur/lab/data/_find.py` -> `lab.data._find`; the package's own `__init__` -> ``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def modules() -> frozenset[str]:
    """The names of all modules of the package."""
    return frozenset(name_of(path) for path in files())


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The package's modules that a file imports, at its top or inside functions, with line numbers."""
    known = modules()
    package = ["secateur", *path.relative_to(PACKAGE).parent.parts] if path.is_relative_to(PACKAGE) else []
    for node in ast.walk(tree(path)):
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
            found = [name for name in joined if name in known or name.split(".")[0] == "_native"]
            rest = [name for name, full in zip(names, joined, strict=True) if full not in found]
            yield from ((name, node.lineno) for name in found)
            if rest or not names:
                yield (inner, node.lineno)
