"""The benchmarks find what they import: nothing else runs them between two measurements."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("[!_]*.py"))


def test_there_are_benchmarks() -> None:
    assert len(SCRIPTS) > 10


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_imports_are_there_and_a_command_says_how_to_measure(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    found = runpy.run_path(str(script), run_name="a benchmark")
    assert f"python benchmarks/{script.name}" in found["__doc__"] and callable(found["main"])
