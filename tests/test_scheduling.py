"""Tests that share something expensive stay together: what is handed out to one worker is a whole group."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scheduling import TOGETHER, scheduler, scope_of, started_once

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


def test_a_second_worker_that_starts_what_is_shared_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, other = (SimpleNamespace(getbasetemp=lambda name=name: tmp_path / name) for name in ("gw0", "gw1"))
    factory: Any = one
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    started_once("cluster", factory)
    started_once("cluster", factory)  # without workers there is nothing to share
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "run")
    started_once("cluster", factory)
    factory = other
    started_once("ranks", factory)
    with pytest.raises(AssertionError, match="cluster: its tests are on two workers"):
        started_once("cluster", factory)
