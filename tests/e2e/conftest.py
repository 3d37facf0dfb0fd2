"""Commands as processes of their own, forked from one that has imported everything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_cases import Commands

DRIVER = Path(__file__).with_name("command_driver.py")


@pytest.fixture(scope="session")
def _driver() -> Iterator[subprocess.Popen[str]]:
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
