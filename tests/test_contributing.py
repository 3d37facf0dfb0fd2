"""CONTRIBUTING.md, followed to the letter: its method, its import line and its test."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secateur import methods
from secateur._catalogue import catalogue
from secateur.testing import check_method

ROOT = Path(__file__).resolve().parent.parent
NAME = "fisher_pruning"


def _step(number: int) -> str:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- step {number} -->\n```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found, f"CONTRIBUTING.md has no code for step {number}"
    return found[1]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps 1 and 2, in a folder that stands in for `secateur/methods`."""
    (tmp_path / f"{NAME}.py").write_text(_step(1), encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    namespace: dict[str, object] = {}
    exec(_step(2), namespace)
    monkeypatch.setattr(methods, NAME, namespace[NAME], raising=False)
    monkeypatch.setattr(methods, "__all__", [*methods.__all__, NAME])
    yield
    sys.modules.pop(f"secateur.methods.{NAME}", None)


@pytest.mark.usefixtures("added")
def test_it_passes_the_conformance_suite() -> None:
    check_method(catalogue()[NAME].factory)


@pytest.mark.usefixtures("added")
def test_table_page_and_command_line_know_it() -> None:
    entry = catalogue()[NAME]
    assert (entry.family, entry.needs, entry.cuts) == ("after training", "labels", "weights")
    assert entry.arxiv == "1801.05787"
    assert entry.summary.startswith("Keep the weights whose removal would change the loss most")


@pytest.mark.usefixtures("added")
def test_its_own_test_passes() -> None:
    namespace: dict[str, Callable[[], None]] = {}
    exec(_step(3), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_steps_are_all_there_is() -> None:
    # The promise is one file, one line, one test: a fourth step on the page would break it.
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\d)\. ", page, re.MULTILINE) == ["1", "2", "3"]
