"""Ctrl-C at any long command: one sentence, exit status 130, no traceback; and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from command_cases import Commands
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


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_in_one_sentence(name: str, commands: Commands, tmp_path: Path) -> None:
    clone(tmp_path)
    command = commands.begin(COMMANDS[name], tmp_path)
    until = time.monotonic() + 100
    while not begun(name, tmp_path):
        assert command.wait() is None, (command.out, command.err)
        assert time.monotonic() < until, "it never began"
        time.sleep(0.02)
    command.send(signal.SIGINT)
    status = command.wait(60)
    sentences = [line for line in command.err.splitlines() if " so far" not in line and ": step " not in line]
    assert status == 130, command.err
    assert command.out == "" and len(sentences) == 1, (command.out, command.err)
    assert sentences[0].startswith("secateur: stopped. ")
    assert ("goes on" in sentences[0]) == (name not in ("clock", "bench"))
