"""Ctrl-C at any long command: one sentence, exit status 130, no traceback; and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paper_cases import clone

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a process group is interrupted as a terminal does it")

LONG = ["--steps", "400000", "--save-every", "0.2"]
COMMANDS = {
    "program": ["run", "--method", "imp", *LONG],
    "in processes": ["run", "--compare", "snip,random", "--jobs", "2", *LONG],
    "paper": ["paper", "tiny", "table", *LONG],
    "clock": ["paper", "tiny", "table", "--clock"],
    "bench": ["bench", "lenet-300-100", "--seconds", "60"],
}


def begun(name: str, folder: Path) -> bool:
    """Whether the command is in the middle of its work."""
    if name in ("clock", "bench"):
        return (folder / "begun").exists()
    return any(folder.glob("runs/*/checkpoint.safetensors")) or any(folder.glob("runs/*/level-1.checkpoint"))


# Says when an import that comes right before the work has been made.
DRIVER = """
import pathlib, sys, threading, time
from secateur.cli import main

def watch():
    while not {"secateur.lab.paper._clock", "secateur.sparse.timing._timing"} <= sys.modules.keys():
        time.sleep(0.05)
    time.sleep(1.0)
    pathlib.Path("begun").touch()

threading.Thread(target=watch, daemon=True).start()
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_in_one_sentence(name: str, tmp_path: Path) -> None:
    clone(tmp_path)
    (tmp_path / "driver.py").write_text(DRIVER)
    process = subprocess.Popen(
        [sys.executable, "driver.py", *COMMANDS[name]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        until = time.monotonic() + 120
        while not begun(name, tmp_path):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "it never began"
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    sentences = [line for line in err.splitlines() if " so far" not in line and ": step " not in line]
    assert process.returncode == 130, err
    assert out == "" and len(sentences) == 1, (out, err)
    assert sentences[0].startswith("secateur: stopped. ")
    assert ("goes on" in sentences[0]) == (name not in ("clock", "bench"))
