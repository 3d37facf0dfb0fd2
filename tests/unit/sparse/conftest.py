"""What the tests of sparse execution share: a made-up machine, and a cache of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.sparse.measured import BreakEven, Machine
from timed_cases import Clock


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep measurements of this machine out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SECATEUR_CACHE", str(folder))
    return folder


@pytest.fixture
def sparse_machine() -> Machine:
    """A machine on which sparse wins below 60 %."""
    return Machine("always sparse", False, (BreakEven(64, 128, 0.6),))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    return Clock(monkeypatch, tmp_path)
