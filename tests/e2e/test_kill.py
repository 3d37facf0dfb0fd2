"""A run that is killed, at any moment, goes on when it is started again, and ends in the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command_cases import Commands

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes the POSIX way")

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of runs that were killed, by plan."""
    root = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(root)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_every_kind_of_moment(killed: dict[str, dict[str, Any]]) -> None:
    report = killed["chosen_points"]
    assert report["differing"] == []
    assert report["survived"] == []  # every kill did happen
    assert report["files"] == [
        ".lock",
        "experiment.json",
        "masks.safetensors",
        "prune.json",
        "result.json",
        "weights.safetensors",
    ]


def test_killed_at_random_times_until_it_gets_through(killed: dict[str, dict[str, Any]]) -> None:
    report = killed["random_times"]
    assert report["same"]
    assert report["kills"] >= 1


def test_command_line_killed_in_training_goes_on(commands: Commands, tmp_path: Path) -> None:
    asked = ["run", "--steps", "1500", "--engine", "torch", "--threads", "1", "--save-every", "0.1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert commands.begin([*asked, "--runs", str(whole)], tmp_path).wait(100) == 0
    command = commands.begin([*asked, "--runs", str(cut)], tmp_path)
    deadline = time.monotonic() + 60
    while not list(cut.glob("*/masks.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    command.send(signal.SIGKILL)
    assert command.wait(60) == -signal.SIGKILL
    assert commands.begin([*asked, "--runs", str(cut)], tmp_path).wait(100) == 0
    (one,), (other,) = whole.glob("*/weights.safetensors"), cut.glob("*/weights.safetensors")
    assert one.read_bytes() == other.read_bytes()
