"""Tests that share something expensive stay together: what is handed out to one worker is a whole group."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduling import TOGETHER, scheduler, scope_of

ROOT = Path(__file__).resolve().parent.parent


def test_groups_are_of_files_that_exist() -> None:
    assert not [file for files in TOGETHER.values() for file in files if not (ROOT / file).exists()]


def test_a_group_has_one_scope_and_any_other_test_its_own() -> None:
    assert scope_of("tests/e2e/test_kill.py::test_a[x::y]") == scope_of("tests/e2e/test_interrupt.py::test_b")
    assert scope_of("tests/e2e/test_kill.py::test_a") != scope_of("tests/distributed/test_ray.py::test_a")
    assert scope_of("tests/unit/test_x.py::test_a[1]") == "tests/unit/test_x.py::test_a[1]"


def test_the_scheduler_of_xdist_asks_for_it(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setattr(pytestconfig.option, "dist", "load")
    monkeypatch.setattr(pytestconfig.option, "tx", ["2*popen"])
    assert scheduler(pytestconfig, None)._split_scope("tests/e2e/test_kill.py::test_a") == "commands"
    monkeypatch.setattr(pytestconfig.option, "dist", "each")
    assert scheduler(pytestconfig, None) is None
