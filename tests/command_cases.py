"""Command lines as processes of their own, forked from one that has imported everything (e2e/command_driver.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path


class Command:
    """A command line that is running, or has run, in a folder."""

    def __init__(self, driver: subprocess.Popen[str], words: list[str], folder: Path) -> None:
        self._driver, self.folder = driver, folder
        self.pid = self._ask(begin={"words": words, "folder": str(folder)})
        self.status: int | None = None

    def _ask(self, **question: object) -> int | None:
        assert self._driver.stdin and self._driver.stdout
        self._driver.stdin.write(json.dumps(question) + "\n")
        self._driver.stdin.flush()
        return json.loads(self._driver.stdout.readline())

    def wait(self, seconds: float = 0.0) -> int | None:
        """Return the exit status, as of `subprocess`; None while it runs."""
        if self.status is None:
            self.status = self._ask(status_of={"child": self.pid, "seconds": seconds})
        return self.status

    def send(self, number: int) -> None:
        """Send a signal to the command and all its processes."""
        assert self.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()


class Commands:
    """Begins commands, and sees to it that none outlives its test."""

    def __init__(self, driver: subprocess.Popen[str]) -> None:
        self._driver, self._begun = driver, list[Command]()

    def begin(self, words: list[str], folder: Path) -> Command:
        self._begun.append(Command(self._driver, words, folder))
        return self._begun[-1]

    def end(self) -> None:
        for command in self._begun:
            if command.wait() is None:
                command.send(signal.SIGKILL)
                command.wait(10)
