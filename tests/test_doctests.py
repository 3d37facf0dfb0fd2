"""The examples in the docstrings of the package run, all of them."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import io
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class _Finder(doctest.DocTestFinder):
    """Looks through the wrapper that the run-time type checker puts around every function.

    The standard finder takes a wrapped function for an import from elsewhere and skips it, silently.
    """

    def _from_module(self, module: object, object: object) -> bool:
        if inspect.isroutine(object) or inspect.isclass(object):
            return getattr(object, "__module__", None) == getattr(module, "__name__", None)
        return super()._from_module(module, object)  # type: ignore[misc]


def _examples_in(path: Path) -> int:
    """How many docstrings in a file hold an example, by reading the source alone."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return sum(">>>" in (ast.get_docstring(node) or "") for node in ast.walk(tree) if isinstance(node, kinds))


def _modules_with_examples() -> list[str]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if _examples_in(path):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            found.append(".".join(part for part in parts if part != "__init__"))
    return found


@pytest.mark.parametrize("name", _modules_with_examples())
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    tests = [test for test in _Finder(exclude_empty=True).find(module, name) if test.examples]
    assert len(tests) == _examples_in(Path(module.__file__)), "an example was not found, so it would not run"
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    for test in tests:
        runner.run(test, out=report.write)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()
