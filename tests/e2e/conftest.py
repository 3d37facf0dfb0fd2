"""Commands as processes of their own, forked from one that has imported everything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_cases import Commands
from scheduling import started_once

DRIVER = Path(__file__).with_name("command_driver.py")


@pytest.fixture(scope="session")
def _driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    started_once("commands", tmp_path_factory)
    with subprocess.Popen(
        [sys.executable, str(DRIVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as driver:
        yield driver
        assert driver.stdin
        driver.stdin.close()


@pytest.fixture
def commands(_driver: subprocess.Popen[str]) -> Iterator[Commands]:
    """Begins command lines as processes of their own."""
    begun = Commands(_driver)
    yield begun
    begun.end()
