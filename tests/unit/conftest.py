"""What the unit tests share: selection with and without the compiled kernels, and a clone with a tiny paper."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from paper_cases import clone
from secateur._base import door
from secateur.selection import _radix


@pytest.fixture(params=["native", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test twice: with the compiled kernels, and with the torch passes that stand in for them."""
    if request.param == "torch":
        monkeypatch.setattr(door, "native", None)
    elif door.native is None:
        pytest.skip(f"no compiled kernels: {door.why_not}")
    return request.param


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the passes into parts of 7 scores, so that small tensors meet what only huge ones would."""
    monkeypatch.setattr(_radix, "PART", 7)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A clone with one paper in it, whose name is the test's own: packages are imported once per process."""
    name = "tiny_" + re.sub(r"\W+", "_", request.node.name)
    clone(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name
