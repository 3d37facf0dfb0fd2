"""A run that is killed, at any moment, goes on when it is started again, and ends in the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secateur.cli import main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes the POSIX way")

DRIVER = Path(__file__).with_name("kill_driver.py")


def drive(plan: str, root: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), plan, str(root)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_every_kind_of_moment(tmp_path: Path) -> None:
    report = drive("chosen", tmp_path)
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


def test_killed_at_random_times_until_it_gets_through(tmp_path: Path) -> None:
    report = drive("random", tmp_path)
    assert report["same"]
    kills = report["kills"]
    assert isinstance(kills, int) and kills >= 1


def test_command_line_killed_in_training_goes_on(tmp_path: Path) -> None:
    asked = ["run", "--steps", "1500", "--engine", "torch", "--threads", "1", "--save-every", "0.1"]
    command = [sys.executable, "-m", "secateur", *asked]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*asked, "--runs", str(whole)]) == 0
    process = subprocess.Popen([*command, "--runs", str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(cut.glob("*/masks.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "--runs", str(cut)], check=True, capture_output=True, timeout=100)
    (one,), (other,) = whole.glob("*/weights.safetensors"), cut.glob("*/weights.safetensors")
    assert one.read_bytes() == other.read_bytes()
