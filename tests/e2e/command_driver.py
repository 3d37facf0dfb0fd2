"""A process that has imported Secateur once and forks a child for every command line it is given.

A child costs what its command costs, and is otherwise a process like any other: a group and streams of its own, an
interpreter that ends as it always does. Spoken to in lines of JSON by conftest.py; trains nothing itself (autograd does
not survive a fork).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def begin(words: list[str], folder: str) -> int:
    """Start a child in a folder, with its output in the files `out` and `err` there; return its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.chdir(folder)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    tell_of_timing()
    from secateur.cli import main

    sys.exit(main(words))


def tell_of_timing() -> None:
    """Leave a file `begun` when something is being timed: what is timed leaves nothing else behind."""
    from secateur.lab.paper import _clock
    from secateur.sparse import _bench

    for module in (_clock, _bench):
        inner = module.interleaved

        def told(*args: Any, inner: Any = inner, **options: Any) -> Any:
            Path("begun").touch()
            return inner(*args, **options)

        module.interleaved = told  # type: ignore[attr-defined]


def status_of(child: int, seconds: float) -> int | None:
    """Return how a child ended, as subprocess does, or None if it has not within some seconds."""
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        found = begin(**asked["begin"]) if "begin" in asked else status_of(**asked["status_of"])
        print(json.dumps(found), flush=True)


def import_everything() -> None:
    """Not at the head of this file, which the processes that a command starts for itself import as well."""
    import torch
    import torch._dynamo  # torch.optim imports it at the first step: seconds

    import secateur.cli
    import secateur.lab.paper  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    import_everything()
    serve()
